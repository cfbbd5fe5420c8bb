//! What opening a checkpoint takes: for any file, memory in a small proportion to its length.

#[path = "../../../protocol/tests/memory/peak.rs"]
mod peak;

use std::{fs, io::Write, path::Path};

use echogen_checkpoint::{Checkpoint, bundle::Bundle};
use peak::peak_of;

#[global_allocator]
static ALLOCATOR: peak::Counting = peak::Counting;

/// Bytes that opening may take for each byte of a file, and in addition.
const PER_BYTE: usize = 10;
const SPARE: usize = 256 << 10;

/// Bytes that opening a bundle may take: its manifest is short, and TOML's reader takes about a hundred bytes for each.
const MANIFEST: usize = 16 << 20;

/// Builds a zip archive in the layout of `torch.save`.
fn torch_file(pickle: &[u8], others: impl Iterator<Item = String>) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("a/data.pkl", options).expect("a test file");
    zip.write_all(pickle).expect("a test file");
    zip.start_file("a/data/0", options).expect("a test file");
    for name in others {
        zip.start_file(name, options).expect("a test file");
    }
    zip.finish().expect("a test file").into_inner()
}

/// Pickles that make as much of each byte as can be.
fn pickles(length: usize) -> Vec<(&'static str, Vec<u8>)> {
    let filled = |start: &[u8], unit: &[u8], end: &[u8]| [start, &unit.repeat(length / unit.len()), end].concat();
    let tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x00tQK\x00K\x00\x85K\x00\x85)NtR";
    let with_tensor = |unit: &[u8]| filled(&[b"}(", &tensor[..], b"q\x000"].concat(), unit, b"u.");
    let names: Vec<u8> =
        (0..length / 9).flat_map(|n| format!("X\x06\0\0\0{n:06x}").into_bytes().into_iter().chain(*b"h\x00")).collect();
    let names = [b"}(", &tensor[..], b"q\x000", &names, b"u."].concat();
    let mut levels = [b"}q\x00X\x01\0\0\0x", &tensor[..], b"s"].concat();
    for level in 0..14u8 {
        levels.extend_from_slice(&[b'}', b'q', level + 1, b'(']);
        levels.extend_from_slice(&[b'K', 0, b'h', level, b'K', 1, b'h', level, b'u']);
    }
    let shape = [b"}(", &b"K\x01".repeat(length)[..]].concat();
    vec![
        ("None", filled(b"}", b"N", b".")),
        ("doubled", filled(b"N", b"2", b".")),
        ("dictionaries", filled(b"", b"}", b".")),
        ("dictionaries in themselves", filled(b"}q\x00", b"h\x00K\x00h\x00s", b".")),
        ("lists", filled(b"", b"]", b".")),
        ("tuples of one", filled(b"N", b"\x85", b".")),
        ("tuples of two", filled(b"N", b"N\x86", b".")),
        ("tuples by marks", filled(b"", b"(NNNNt", b".")),
        ("one tuple", filled(b"(", b"N", b"t.")),
        ("numbers", filled(b"(", b"J\xff\xff\xff\xff", b"t.")),
        ("texts", filled(b"(", b"\x8c\x00", b"t.")),
        ("classes", filled(b"(", b"c\n\n", b"t.")),
        ("classes of texts", filled(b"\x8c\x00(", b"\x8c\x00\x8c\x00\x93", b"t.")),
        ("calls", filled(b"N", b"NR", b".")),
        ("calls of nothing", filled(b"N", b")R", b".")),
        ("ordered dictionaries", filled(b"ccollections\nOrderedDict\nq\x00", b"h\x00)R", b".")),
        ("references", filled(b"N", b"Q", b".")),
        ("the memo", filled(b"N", b"\x94", b".")),
        ("the memo in any order", {
            let puts = (0..length as u32 / 5)
                .flat_map(|n| [&b"r"[..], &(n.wrapping_mul(0x9e37_79b1) | 1 << 31).to_le_bytes()].concat());
            [b"N".to_vec(), puts.collect(), b".".to_vec()].concat()
        }),
        ("marks", filled(b"", b"(", b".")),
        ("entries", filled(b"}q\x00(", b"K\x01h\x00", b"u.")),
        ("one tensor under many numbers", with_tensor(b"J\x01\x02\x03\x7fh\x00")),
        ("one tensor under many names", names),
        ("dictionaries that multiply", [&levels[..], &b"N0".repeat(length / 2), b"."].concat()),
        ("a shape", [&shape[..], b"t."].concat()),
    ]
}

fn files(length: usize) -> Vec<(String, Vec<u8>)> {
    let safetensors = |header: String| [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    let entries =
        |entry: &dyn Fn(usize) -> String, each: usize| (0..length / each).map(entry).collect::<Vec<_>>().join(",");
    let tensor = |n: usize| format!("\"{n:x}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    let plain = |map: String| safetensors(format!("{{{map}}}"));
    let shards = |n: usize| format!("\"{n:x}\":\"b\"");
    let mut files: Vec<(String, Vec<u8>)> = pickles(length)
        .into_iter()
        .map(|(name, pickle)| (format!("{name}.pth"), torch_file(&pickle, std::iter::empty())))
        .collect();
    files.push(("entries of a zip.pth".into(), torch_file(b"}.", (1..length / 100).map(|n| format!("a/data/{n}")))));
    files.push(("tensors.safetensors".into(), plain(entries(&tensor, 60))));
    files.push((
        "shape.safetensors".into(),
        plain(format!("\"a\":{{\"dtype\":\"U8\",\"shape\":[{}0]}}", "0,".repeat(length / 2))),
    ));
    files.push(("deep.safetensors".into(), plain(format!("\"__metadata__\":{}", "[".repeat(length)))));
    files.push(("notes.safetensors".into(), plain(format!("\"__metadata__\":[{}0]", "{\"\":0},".repeat(length / 7)))));
    files.push(("index.json".into(), format!("{{\"weight_map\":{{{}}}}}", entries(&shards, 11)).into_bytes()));
    files.push(("notes.json".into(), format!("{{\"metadata\":[{}0]}}", "{\"\":0},".repeat(length / 7)).into_bytes()));
    files.extend(manifests(length.min(1 << 17)));
    files
}

/// Manifests of bundles with as many values as fit.
fn manifests(length: usize) -> Vec<(String, Vec<u8>)> {
    let filled = |start: &str, unit: &str, end: &str| format!("{start}{}{end}", unit.repeat(length / unit.len()));
    let tables: String = (0..length / 12).map(|n| format!("[a.{n:x}]\n")).collect();
    let members: String = (0..length / 12).map(|n| format!("{n:x}=0\n")).collect();
    [
        ("numbers", filled("a=[", "0,", "]")),
        ("lists", filled("a=[", "[],", "]")),
        ("tables in a list", filled("a=[", "{},", "]")),
        ("lists in lists", filled("a=", "[", "")),
        ("dots", filled("a", ".a", "=0")),
        ("headers of dots", filled("[a", ".a", "]")),
        ("arrays of tables", filled("", "[[a]]\n", "")),
        ("tables", tables),
        ("members", members),
        ("a text", filled("a=\"", "x", "\"")),
    ]
    .map(|(name, text)| (format!("{name}.toml"), text.into_bytes()))
    .into()
}

/// Opens a file and returns the number of its tensors.
fn open(path: &Path) -> Option<usize> {
    if path.extension().is_some_and(|extension| extension == "toml") {
        return Bundle::open(path).map(|bundle| bundle.manifest().networks().count()).ok();
    }
    Checkpoint::open(path).map(|checkpoint| checkpoint.names().count()).ok()
}

/// One test, because what another one allocates meanwhile would count.
#[test]
fn opening_takes_memory_in_proportion_to_the_file() {
    let folder = tempfile::tempdir().expect("a test file");
    let path = |name: &str| folder.path().join(name);
    drop(Checkpoint::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/nested.pth")));
    let mut over = Vec::new();
    for length in [1 << 16, 1 << 20, 1 << 23] {
        for (name, bytes) in files(length) {
            fs::write(path(&name), &bytes).expect("a test file");
            let (opened, peak) = peak_of(|| open(&path(&name)));
            // With `--nocapture`, the figures.
            let ratio = peak as f64 / bytes.len() as f64;
            println!("{ratio:5.2} of {} bytes: {name}, {:?}", bytes.len(), opened);
            let is_manifest = name.ends_with(".toml");
            let most = if is_manifest { MANIFEST } else { PER_BYTE * bytes.len() + SPARE };
            if peak > most {
                over.push(format!("{name}: {peak} bytes of {}", bytes.len()));
            }
        }
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
}
