//! Whatever a file contains, what is said of it is one short line without invisible characters.

use std::{fs, io::Write, path::Path};

use candle_core::{DType, Device};
use echogen_checkpoint::{
    Checkpoint,
    bundle::{Bundle, MANIFEST_FILE, Network},
};

/// Texts with line breaks, controls, and characters that turn the direction of text.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> =
        ["A\n", "\u{202e}", "\u{1b}[31m\r\n", "\u{2028}\u{85}", "é\"'\\"].map(|unit| unit.repeat(3_000)).into();
    texts.push("A\n".repeat(4 << 20));
    texts
}

#[track_caller]
fn check(text: &str, place: &str) {
    let head: String = text.chars().take(300).collect();
    assert!(text.chars().count() <= 1_000, "{place}: {} characters, {head:?}", text.chars().count());
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    assert!(!text.contains(odd), "{place}: {head:?}");
}

fn open(name: &str, bytes: &[u8], place: &str) {
    let folder = tempfile::tempdir().expect("a test file");
    let path = folder.path().join(name);
    fs::write(&path, bytes).expect("a test file");
    match Checkpoint::open(&path) {
        Err(error) => check(&error.to_string(), place),
        Ok(checkpoint) => {
            let loaded = checkpoint.load(DType::F32, &Device::Cpu, |_| false, |vb| vb.get(1, "absent"));
            check(&loaded.expect_err("it does not fit").to_string(), place);
            for name in checkpoint.names() {
                let missing = checkpoint.tensor(&format!("{name}?"), DType::F32, &Device::Cpu);
                check(&missing.expect_err("it does not fit").to_string(), place);
            }
        }
    }
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn names_and_types_of_safetensors_are_quoted_briefly() {
    for text in texts() {
        let text = serde_json::Value::from(text).to_string();
        for (header, data) in [
            (format!(r#"{{{text}:{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#), 8),
            (format!(r#"{{{text}:{{"dtype":"F64","shape":[2],"data_offsets":[0,8]}}}}"#), 8),
            (format!(r#"{{{text}:{{"dtype":{text},"shape":[2],"data_offsets":[0,8]}}}}"#), 8),
            (format!(r#"{{{text}:{{"dtype":"F32","shape":{text},"data_offsets":[0,8]}}}}"#), 8),
            (format!(r#"{{{text}:{text}}}"#), 0),
            (format!(r#"{{{text}:{{"dtype":"I8","shape":[1],"data_offsets":[0,1]}},{text}:0}}"#), 1),
            (text.clone(), 0),
        ] {
            open("a.safetensors", &safetensors(&header, &vec![0; data]), "safetensors");
        }
        for index in [
            format!(r#"{{"weight_map":{{{text}:"../b"}}}}"#),
            format!(r#"{{"weight_map":{{"a":{text}}}}}"#),
            format!(r#"{{"weight_map":{{{text}:{text},{text}:0}}}}"#),
            format!(r#"{{"weight_map":{text}}}"#),
        ] {
            open("a.json", index.as_bytes(), "index");
        }
    }
}

/// Builds a zip archive in the layout of `torch.save`.
fn torch_file(pickle: &[u8], other: &str) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    let stored = options.compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [("a/data.pkl", pickle), ("a/data/0", &[0; 16])] {
        zip.start_file(name, stored).expect("a test file");
        zip.write_all(content).expect("a test file");
    }
    if !other.is_empty() {
        zip.start_file(other, options.compression_method(zip::CompressionMethod::Deflated)).expect("a test file");
        zip.write_all(&[0; 64]).expect("a test file");
    }
    zip.finish().expect("a test file").into_inner()
}

#[test]
fn names_of_pytorch_files_are_quoted_briefly() {
    let text = |text: &str| {
        [&b"X"[..], &u32::try_from(text.len()).expect("a test file").to_le_bytes(), text.as_bytes()].concat()
    };
    for odd in texts() {
        let tensor = |class: &str, storage: &str, shape: &[u8]| {
            let class = [text("torch"), text(class), b"\x93".to_vec()].concat();
            let storage = [&b"("[..], &text("storage"), &class, &text(storage), &text("cpu"), b"K\x04tQ"].concat();
            [&b"ctorch._utils\n_rebuild_tensor_v2\n("[..], &storage, b"K\x00", shape, b"K\x01\x85\x89NtR"].concat()
        };
        for value in [
            tensor("FloatStorage", "0", b"K\x02\x85"),
            tensor("FloatStorage", "0", b"K\x09\x85"),
            tensor("FloatStorage", &odd, b"K\x02\x85"),
            tensor(&odd, "0", b"K\x02\x85"),
            [&b"}"[..], &text(&odd), b"K\x01s"].concat(),
        ] {
            open("a.pth", &torch_file(&[&b"}"[..], &text(&odd), &value, b"s."].concat(), ""), "pickle");
        }
        let cut: String = odd.chars().take(10_000).collect();
        open("a.pth", &torch_file(b"}.", &cut), "entry of a zip");
        open("a.pth", &torch_file(&text(&odd), ""), "no end");
    }
}

const HEAD: &str = r#"
name = "tiny"
description = "for tests"
licence = "MIT"
[sampling]
guidance_text = 2.5
guidance_subject = 2.5
temperature = 2.0
top_k = 900
top_p = 0.97
seed = 42
pixel_budget = "0.06M"
height_to_width = 1.0
subject_resolution = { "0.06M" = 256 }
"#;

fn manifest() -> toml::Table {
    let network = |name: &str| {
        format!(
            "[{name}]\nweights = [\"a\"]\nconfig_file = \"a\"\ntokenizer = \"a\"\nprefix = \"p\"\n[[{name}.files]]\npath = \"a\"\n\
                 licence = \"MIT\"\nrepository = \"r\"\nsource = \"s\"\nrevision = \"m\"\nsize = 1\nsha256 = \"00\"\n"
        )
    };
    let networks = ["text_encoder", "dinov2", "flux_vae", "visual_tokenizer", "transformer"]
        .map(|name| network(name).replace("\"a\"", &format!("\"{name}\"")));
    let text = format!("{HEAD}{}", networks.concat()).replace("\"00\"", &format!("\"{}\"", "0".repeat(64)));
    text.parse().expect("a test file")
}

/// Changes one value at a time to each of `values`, and adds fields of that name.
fn changes(table: &toml::Table, odd: &str, each: &mut dyn FnMut(toml::Table)) {
    for (name, value) in table {
        for other in [toml::Value::from(odd), toml::Value::from(vec![odd]), toml::Value::from(7)] {
            let mut changed = table.clone();
            changed.insert(name.clone(), other);
            each(changed);
        }
        if let Some(inner) = value.as_table() {
            changes(inner, odd, &mut |inner| {
                let mut changed = table.clone();
                changed.insert(name.clone(), inner.into());
                each(changed);
            });
        }
        if let Some(inner) = value.as_array().and_then(|list| list.first()).and_then(toml::Value::as_table) {
            changes(inner, odd, &mut |inner| {
                let mut changed = table.clone();
                changed.insert(name.clone(), vec![inner].into());
                each(changed);
            });
        }
    }
    let mut changed = table.clone();
    changed.insert(odd.to_owned(), 7.into());
    each(changed);
}

fn open_bundle(folder: &Path) {
    let bundle = match Bundle::open(folder) {
        Ok(bundle) => bundle,
        Err(error) => return check(&error.to_string(), "manifest"),
    };
    for network in Network::ALL {
        check(&bundle.checkpoint(network).expect_err("it does not fit").to_string(), "checkpoint");
        if let Err(error) = bundle.tokenizer(network) {
            check(&error.to_string(), "tokenizer");
        }
        if let Err(error) = bundle.config::<BoundedConfig>(network) {
            check(&error.to_string(), "architecture");
        }
    }
    bundle
        .verify(&mut |_, _| {})
        .into_iter()
        .filter_map(Result::err)
        .for_each(|error| check(&error.to_string(), "sum"));
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct BoundedConfig {
    #[serde(rename = "width")]
    _width: u32,
}

#[test]
fn every_field_of_a_manifest_is_quoted_briefly() {
    let folder = tempfile::tempdir().expect("a test file");
    for odd in ["A\n\u{202e}".repeat(1_000), "a\nb".to_owned(), "\u{202e}\u{2028}".to_owned(), String::new()] {
        changes(&manifest(), &odd, &mut |changed| {
            fs::write(folder.path().join(MANIFEST_FILE), changed.to_string()).expect("a test file");
            open_bundle(folder.path());
        });
    }
    fs::write(folder.path().join(MANIFEST_FILE), manifest().to_string()).expect("a test file");
    for odd in ["A\n\u{202e}".repeat(100_000), "a\nb".to_owned()] {
        for config in [
            format!("{{{odd:?}:1}}"),
            serde_json::json!({ &odd: 1 }).to_string(),
            serde_json::json!({ "width": odd }).to_string(),
        ] {
            fs::write(folder.path().join("text_encoder"), config).expect("a test file");
            open_bundle(folder.path());
        }
        fs::write(folder.path().join("bundle.lock.toml"), toml::Table::from_iter([(odd, 7.into())]).to_string())
            .expect("a test file");
        open_bundle(folder.path());
    }
    for text in [
        format!("a = \"{}", "A".repeat(100_000)),
        format!("{} = 1", "\"\\u202e\"".repeat(9_000)),
        "A\u{0}".repeat(50_000),
    ] {
        fs::write(folder.path().join(MANIFEST_FILE), text).expect("a test file");
        check(&Bundle::open(folder.path()).expect_err("it does not fit").to_string(), "no TOML");
    }
    check(
        &Bundle::find(&"A\n".repeat(100_000), &[folder.path().to_owned()]).expect_err("it does not fit").to_string(),
        "name",
    );
}
