//! `echogen-eval --dreambench` on a small folder in that format, with tiny judges of random weights.

use std::path::Path;

use echogen_imaging::{ImageFormat, RgbImage, encode_image};
use echogen_world::{Identity, Picture, Scene, View, split};
use serde_json::Value;

use crate::program::{Folder, Run, repository};

/// Number of photographs of each of two subjects that are not in the training set.
const PHOTOGRAPHS: [usize; 2] = [1, 3];

const PROMPTS: &str = "
Prompts

Object Prompts

prompt_list = [
'a {0} {1} on a beach'.format(unique_token, class_token),
'a {0} {1} in a forest at night'.format(unique_token, class_token)
]
";

/// Creates a folder laid out like a clone of google/dreambooth, in `bench`; returns the names of the two subjects.
fn dreambench(folder: &Folder) -> [String; 2] {
    let mut listing = "Classes\n\nsubject_name,class\n".to_owned();
    let names = [0, 1].map(|index| {
        let identity = Identity::new(split::HELD_OUT_IDENTITIES.start + index as u64);
        let (class, name) = (identity.kind.name(), format!("{}{index}", identity.kind.name().replace(' ', "_")));
        listing.push_str(&format!("{name},{class},object\n"));
        for number in 0..PHOTOGRAPHS[index] {
            let view = View::new(2 * identity.number + number as u64, Scene::ALL[3 * number]);
            let path = folder.path(&format!("bench/dataset/{name}/{number:02}.png"));
            write_picture(&path, &Picture::render(&identity, &view, 96));
        }
        name
    });
    folder.write("bench/dataset/prompts_and_classes.txt", listing + PROMPTS);
    names
}

fn write_picture(path: &Path, picture: &Picture) {
    let side = picture.size as u32;
    let picture = RgbImage::from_raw(side, side, picture.pixels.clone()).expect("a picture has its size");
    std::fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a folder can be made");
    std::fs::write(path, encode_image(&picture, ImageFormat::Png, 100).expect("a PNG")).expect("a file can be written");
}

fn judge(name: &str) -> String {
    repository("tests/fixtures").join(name).display().to_string()
}

/// Runs `--dreambench bench --json` with both judges and stores the pictures in `pictures`.
fn evaluate(folder: &Folder, per_prompt: &str, more: &[&str]) -> Run {
    let (dino, clip) = (judge("dino"), judge("clip"));
    let given = ["--dreambench", "bench", "--json", "--dino", &dino, "--clip", &clip];
    let kept = ["--keep", "pictures", "--per-prompt", per_prompt];
    folder.evaluate(&[given.as_slice(), &kept, more].concat())
}

fn report(run: Run) -> Value {
    serde_json::from_str(&run.expect(0).stdout).expect("one line of JSON")
}

fn score(report: &Value, key: &str) -> f64 {
    report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report:#}"))
}

#[test]
fn pictures_are_made_judged_kept_and_not_made_again() {
    let folder = Folder::new();
    let [first, second] = dreambench(&folder);
    let made = report(evaluate(&folder, "2", &[]));
    assert_eq!((&made["type"], &made["bundle"]), (&"dreambench".into(), &"mini".into()));
    assert_eq!((&made["pictures"], &made["made"]), (&8.into(), &8.into()));
    for key in ["dino", "clip_i", "clip_t"] {
        let subjects = [0, 1].map(|index| score(&made["subjects"][index], key));
        assert!(subjects.iter().all(|score| (-1.0..=1.0).contains(score)), "{made:#}");
        assert!((score(&made, key) - (subjects[0] + subjects[1]) / 2.0).abs() < 1e-9, "{made:#}");
    }
    assert_eq!(
        (&made["subjects"][0]["subject"], &made["subjects"][1]["pictures"]),
        (&first.as_str().into(), &4.into())
    );
    assert!([0, 1].iter().all(|index| made["subjects"][index]["how"] == "detector"), "{made:#}");
    // A subject with one photograph has no other one to be compared with.
    assert!(made["subjects"][0]["real"]["dino"].is_null() && made["subjects"][1]["real"]["dino"].is_f64(), "{made:#}");

    let removed = folder.read(&format!("pictures/{second}/01-0.png"));
    let again = report(evaluate(&folder, "2", &[]));
    assert_eq!(again["made"], 0);
    std::fs::remove_file(folder.path(&format!("pictures/{second}/01-0.png"))).expect("it is there");
    let resumed = report(evaluate(&folder, "2", &[]));
    assert_eq!(resumed["made"], 1);
    // A picture depends only on its prompt, subject and seed.
    assert_eq!(folder.read(&format!("pictures/{second}/01-0.png")), removed);
    for key in ["dino", "clip_i", "clip_t", "real"] {
        assert_eq!((&again[key], &resumed[key]), (&made[key], &made[key]), "{key}");
    }
    assert_ne!(folder.read(&format!("pictures/{second}/01-1.png")), removed);

    evaluate(&folder, "2", &["--guidance-text", "9"]).expect_error(2, "other settings (sampling); take another --keep");
    let some = report(evaluate(&folder, "1", &["--subjects", &second]));
    assert_eq!((&some["pictures"], &some["made"]), (&2.into(), &0.into()));
}

/// The judges give copies of the photographs the maximum similarity, and pictures made elsewhere need no bundle.
#[test]
fn photographs_in_place_of_pictures_are_as_like_as_can_be() {
    let folder = Folder::new();
    let [name, _] = dreambench(&folder);
    std::fs::create_dir_all(folder.path(&format!("theirs/{name}"))).expect("a folder can be made");
    for place in ["00-0", "01-0"] {
        folder.write(&format!("theirs/{name}/{place}.png"), folder.read(&format!("bench/dataset/{name}/00.png")));
    }
    let dino = judge("dino");
    let given = ["--dreambench", "bench/dataset", "--dino", &dino, "--keep", "theirs", "--subjects", &name];
    let given = [given.as_slice(), &["--per-prompt", "1", "--bundle", "no-such-bundle"]].concat();
    let judged = report(folder.evaluate(&[given.as_slice(), &["--json"]].concat()));
    assert!((score(&judged, "dino") - 1.0).abs() < 1e-6, "{judged:#}");
    assert!(judged["clip_i"].is_null() && judged["clip_t"].is_null() && judged["bundle"].is_null(), "{judged:#}");
    let run = folder.evaluate(&given).expect(0);
    let expected = "pictures made elsewhere on DreamBench: 1 subjects, 2 pictures, 0 made now\n";
    assert!(run.stdout.starts_with(expected) && run.stdout.contains("1.000        -        -\n"), "{run:?}");

    std::fs::remove_file(folder.path(&format!("theirs/{name}/01-0.png"))).expect("it is there");
    folder.evaluate(&given).expect_error(2, "were made elsewhere and lack 01-0.png");
}

#[test]
fn what_is_missing_or_does_not_fit_is_said() {
    let folder = Folder::new();
    let [name, _] = dreambench(&folder);
    let run = |more: &[&str]| folder.evaluate(&[["--dreambench", "bench"].as_slice(), more].concat());
    run(&[]).expect_error(2, "give --dino FOLDER, --clip FOLDER or both");
    run(&["--dino", "bench"]).expect_error(2, "bench has no config.json; it takes the files of facebook/dino-vits16");
    run(&["--dino", &judge("clip")])
        .expect_error(2, "it describes a network of type \"clip\"; take the one of facebook");
    run(&["--subjects", "nobody"]).expect_error(2, "--subjects: there is no \"nobody\"; there are ");
    folder.evaluate(&["--dreambench", "."]).expect_error(2, "has no prompts_and_classes.txt");
    let both = folder.evaluate(&["--dreambench", "bench", "--quick"]).expect(2);
    assert!(both.stderr.contains("--quick"), "{both:?}");
    folder.evaluate(&["--dino", "bench"]).expect(2);

    let broken = folder.path("clip");
    std::fs::create_dir(&broken).expect("a folder can be made");
    let copy = |file: &str| std::fs::copy(format!("{}/{file}", judge("clip")), broken.join(file)).expect("a fixture");
    copy("config.json");
    run(&["--clip", "clip"]).expect_error(2, "clip has no tokenizer.json; it takes the files of openai/clip-vit");
    copy("tokenizer.json");
    run(&["--clip", "clip"]).expect_error(2, "clip has no model.safetensors (or pytorch_model.bin)");
    std::fs::copy(format!("{}/model.safetensors", judge("dino")), broken.join("model.safetensors")).expect("a fixture");
    run(&["--clip", "clip"]).expect_error(2, "the weights do not fit");
    copy("model.safetensors");
    let config = String::from_utf8(folder.read("clip/config.json")).expect("text").replace("quick_gelu", "gelu");
    folder.write("clip/config.json", config);
    run(&["--clip", "clip"]).expect_error(2, "hidden_act is \"gelu\"; only \"quick_gelu\" can be computed");

    std::fs::remove_dir_all(folder.path(&format!("bench/dataset/{name}"))).expect("it is there");
    run(&["--clip", &judge("clip")]).expect_error(2, "but there is no folder");
}
