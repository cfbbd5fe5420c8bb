//! Tests detector, namer and masker of a bundle with the small networks of the parity fixtures. Their weights are
//! random, so the answers have no meaning, but every step from picture to answer runs, on unusual pictures too.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use echogen_checkpoint::bundle::Bundle;
use echogen_imaging::{PixelBox, RgbImage};
use echogen_models::{
    DType, Device,
    subject_finder::{SubjectFinder, SubjectFinderError},
};
use tokenizers::{AddedToken, Tokenizer, models::wordlevel::WordLevel, pre_tokenizers::whitespace::Whitespace};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures")
}

/// Writes a tokenizer with a few words; `ids` are those that the networks know.
fn write_tokenizer(path: &Path, words: &[(&str, u32)], special: &[&str]) {
    let vocab: HashMap<String, u32> = words.iter().map(|(word, id)| ((*word).to_owned(), *id)).collect();
    let model = WordLevel::builder().vocab(vocab.into_iter().collect()).unk_token("[UNK]".into()).build().unwrap();
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(Whitespace {}));
    let special: Vec<_> = special.iter().map(|token| AddedToken::from(*token, true)).collect();
    tokenizer.add_special_tokens(special).unwrap();
    tokenizer.save(path, false).unwrap();
}

/// Creates the mini bundle's manifest with the three networks of the fixtures appended.
fn bundle(folder: &Path) -> Bundle {
    let networks = [("detector", "grounding-dino"), ("namer", "qwen2.5-vl"), ("segment_anything", "sam")];
    let mut mini: toml::Table = include_str!("../../../bundles/mini/bundle.toml").parse().unwrap();
    for (network, _) in networks {
        mini.remove(network);
    }
    let mut manifest = mini.to_string();
    for (network, fixture) in networks {
        let own = folder.join(fixture);
        fs::create_dir_all(&own).unwrap();
        let mut files = vec!["model.safetensors", "config.json"];
        for file in &files {
            fs::copy(fixtures().join(fixture).join(file), own.join(file)).unwrap();
        }
        let mut tokenizer = String::new();
        if network != "segment_anything" {
            files.push("tokenizer.json");
            tokenizer = format!("tokenizer = \"{fixture}/tokenizer.json\"\n");
        }
        manifest += &format!(
            "\n[{network}]\nweights = [\"{fixture}/model.safetensors\"]\nconfig_file = \"{fixture}/config.json\"\n{tokenizer}"
        );
        for file in files {
            manifest += &format!("\n[[{network}.files]]\npath = \"{fixture}/{file}\"\nlicence = \"MIT\"\n");
        }
    }
    let words = [("[UNK]", 100), ("a", 8), ("dog", 44), ("red", 74), (".", 1012)];
    write_tokenizer(&folder.join("grounding-dino/tokenizer.json"), &words, &[]);
    let words: Vec<(String, u32)> = (0..290).map(|id| (format!("w{id}"), id)).collect();
    let mut words: Vec<(&str, u32)> = words.iter().map(|(word, id)| (word.as_str(), *id)).collect();
    words.push(("[UNK]", 290));
    write_tokenizer(&folder.join("qwen2.5-vl/tokenizer.json"), &words, &["<|im_start|>", "<|im_end|>"]);
    fs::write(folder.join("bundle.toml"), manifest).unwrap();
    Bundle::open(folder).unwrap()
}

fn load() -> SubjectFinder {
    let folder = tempfile::tempdir().unwrap();
    SubjectFinder::load(&bundle(folder.path()), &Device::Cpu, DType::F32).unwrap()
}

fn noise(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| [(x * 37 + y * 11) as u8, (x * y) as u8, (x ^ y) as u8].into())
}

#[test]
fn the_detector_answers_on_odd_pictures_too() {
    let detector = load().detector.unwrap();
    let white = RgbImage::from_pixel(64, 48, [255; 3].into());
    for picture in [noise(1, 1), noise(1, 5_000), noise(5_000, 1), white, noise(90, 60)] {
        let (width, height) = picture.dimensions();
        let detections = detector.detect(&picture, "A red dog").unwrap();
        assert!(!detections.is_empty() && detections.len() <= 24, "{width} x {height}");
        for detection in detections {
            let [left, top, right, bottom] = detection.bounding_box;
            assert!(0.0 <= left && left <= right && right <= width as f32, "{detection:?}");
            assert!(0.0 <= top && top <= bottom && bottom <= height as f32, "{detection:?}");
            assert!((0.0..=1.0).contains(&detection.score), "{detection:?}");
            assert!(detection.phrase.split(' ').all(|word| ["", "a", "red", "dog"].contains(&word)), "{detection:?}");
        }
    }
    assert!(detector.detect(&noise(8, 8), "...").unwrap_err().is_bad_name());
    assert!(detector.detect(&noise(8, 8), &"dog ".repeat(50)).is_ok(), "a long name is cut to the network's tokens");
}

#[test]
fn the_detector_hears_the_name_and_sees_the_picture() {
    let detector = load().detector.unwrap();
    let scores = |picture: &RgbImage, name: &str| {
        detector.detect(picture, name).unwrap().iter().map(|detection| detection.score).collect::<Vec<_>>()
    };
    let dog = scores(&noise(90, 60), "dog");
    assert_eq!(dog, scores(&noise(90, 60), "DOG."));
    assert_ne!(dog, scores(&noise(90, 60), "red"));
    assert_ne!(dog, scores(&noise(60, 90), "dog"));
}

#[test]
fn the_namers_answer_is_bounded() {
    let namer = load().namer.unwrap();
    for picture in [noise(1, 1), noise(300, 200), RgbImage::from_pixel(80, 80, [255; 3].into())] {
        let asked = std::cell::Cell::new(0);
        let answer = namer.name(&picture, &|| {
            asked.set(asked.get() + 1);
            true
        });
        let answer = answer.unwrap();
        assert!(asked.get() <= 24, "{} tokens", asked.get());
        assert!(answer.is_none_or(|name| !name.is_empty() && name.chars().count() <= 60));
    }
    let asked = std::cell::Cell::new(0);
    let stopped = namer.name(&noise(300, 200), &|| {
        asked.set(asked.get() + 1);
        false
    });
    assert!(stopped.is_ok() && asked.get() == 1);
    let error = namer.name(&noise(1, 5_000), &|| true).unwrap_err();
    assert!(error.to_string().contains("picture is 1 x 5000; one side may be at most 200 times the other"));
}

#[test]
fn the_masks_size_is_the_pictures() {
    let masker = load().masker.unwrap();
    for (width, height) in [(1, 1), (1, 5_000), (150, 90)] {
        let picture = noise(width, height);
        let mask = masker.outline(&picture, PixelBox { left: 0, top: 0, right: width, bottom: height }).unwrap();
        assert!(!mask.contains(width, 0) && !mask.contains(0, height));
    }
    let outside = PixelBox { left: 0, top: 0, right: 9, bottom: 9 };
    assert!(masker.outline(&noise(8, 8), outside).is_err());
}

#[test]
fn the_size_of_the_detectors_pictures_is_the_bundles() {
    let found = |size: &str| {
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle(folder.path());
        let path = folder.path().join("grounding-dino/config.json");
        let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["size"] = serde_json::from_str(size).unwrap();
        fs::write(path, config.to_string()).unwrap();
        let detector = SubjectFinder::load(&bundle, &Device::Cpu, DType::F32)?.detector.unwrap();
        Ok::<_, SubjectFinderError>(detector.detect(&noise(64, 48), "dog").unwrap())
    };
    let small = found(r#"{"shortest_edge": 96, "longest_edge": 200}"#).unwrap();
    assert_ne!(small, found(r#"{"shortest_edge": 128, "longest_edge": 200}"#).unwrap());
    for size in [r#"{"shortest_edge": 0}"#, r#"{"shortest_edge": 1400}"#, r#"{"longest_edge": 100000}"#] {
        let error = found(size).unwrap_err();
        assert!(error.to_string().contains("must be from 1 to 4096"), "{error}");
    }
}

#[test]
fn a_bundle_may_lack_networks_but_not_parts_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = bundle(folder.path());
    fs::remove_dir_all(folder.path().join("sam")).unwrap();
    let finder = SubjectFinder::load(&bundle, &Device::Cpu, DType::F32).unwrap();
    assert!(finder.masker.is_none() && finder.detector.is_some() && finder.namer.is_some());
    fs::remove_file(folder.path().join("qwen2.5-vl/tokenizer.json")).unwrap();
    let error = SubjectFinder::load(&bundle, &Device::Cpu, DType::F32).unwrap_err();
    assert!(error.to_string().contains("qwen2.5-vl/tokenizer.json"), "{error}");
}
