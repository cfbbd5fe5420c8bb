//! Tests on checkpoints of every format: valid, damaged and hostile.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;
use std::fs;
use tempfile::TempDir;

mod conversion;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(name, DType::F32, &Device::Cpu).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Writes `bytes` to a file called `name` in a new temporary folder, which exists until the value is dropped.
fn file(name: &str, bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn small_safetensors(name: &str) -> Vec<u8> {
    safetensors(
        &format!(r#"{{"__metadata__":{{"format":"pt"}},"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#),
        &[0; 8],
    )
}

fn reason(name: &str, bytes: &[u8]) -> String {
    let (_folder, path) = file(name, bytes);
    Checkpoint::open(&path).unwrap_err().to_string()
}

#[test]
fn torch_and_safetensors_agree_on_every_tensor() {
    let torch = Checkpoint::open(&data("flat.pth")).unwrap();
    let plain = Checkpoint::open(&data("flat.safetensors")).unwrap();
    assert_eq!(torch.names().collect::<Vec<_>>(), plain.names().collect::<Vec<_>>());
    assert_eq!(torch.names().count(), 16);
    for name in plain.names() {
        assert_eq!(torch.shape(name), plain.shape(name), "{name}");
        assert_eq!(torch.stored_type(name), plain.stored_type(name), "{name}");
        assert_eq!(values(&torch, name), values(&plain, name), "{name}");
    }
}

#[test]
fn nested_dictionaries_are_joined_by_dots_and_cut_off() {
    let nested = Checkpoint::open(&data("nested.pth")).unwrap();
    let names: Vec<_> = nested.names().collect();
    assert_eq!(names, ["trainer.gpt_fsdp.bias", "trainer.gpt_fsdp.weight", "trainer.optimizer.0.exp"]);
    let flat = nested.below("trainer.gpt_fsdp").below("not.there");
    assert_eq!(flat.names().collect::<Vec<_>>(), ["bias", "weight"]);
    assert_eq!(values(&flat, "bias"), [2.0, 2.0]);
}

#[test]
fn a_network_that_fits_is_built_in_the_asked_type() {
    let checkpoint = Checkpoint::open(&data("nested.pth")).unwrap().below("trainer.gpt_fsdp");
    let weight = checkpoint.load(
        DType::F16,
        &Device::Cpu,
        |_| false,
        |vb| {
            assert!(vb.contains_tensor("bias") && !vb.contains_tensor("other"));
            vb.get(2, "bias")?;
            vb.get_unchecked("weight")
        },
    );
    let weight = weight.unwrap();
    assert_eq!((weight.dims(), weight.dtype()), (&[2, 2][..], DType::F16));
}

#[test]
fn one_error_lists_everything_that_does_not_fit() {
    let checkpoint = Checkpoint::open(&data("flat.pth")).unwrap();
    let result = checkpoint.load(
        DType::F32,
        &Device::Cpu,
        |name| name != "tied" && name != "scalar",
        |vb| {
            vb.get((9, 9), "absent")?;
            vb.get((9, 9), "absent")?;
            vb.pp("shared").get((4, 2), "head")?;
            vb.get((2, 3), "single")?;
            vb.get(1_000_000_000_000, "missing.and.large")
        },
    );
    let Err(CheckpointError::Mismatch(mismatch)) = result else { panic!("expected a mismatch") };
    assert_eq!(mismatch.missing, ["absent", "missing.and.large"]);
    assert_eq!(mismatch.unexpected, ["scalar", "tied"]);
    assert_eq!(mismatch.misshaped.len(), 1);
    let text = mismatch.to_string();
    assert!(text.contains("shared.head (expected [4, 2], found [2, 4])"), "{text}");
    assert!(text.contains("2 missing: absent, missing.and.large"), "{text}");
}

#[test]
fn a_failing_constructor_reports_the_mismatch_behind_it() {
    let checkpoint = Checkpoint::open(&data("flat.pth")).unwrap();
    let result = checkpoint.load(DType::F32, &Device::Cpu, |_| true, |vb| vb.get_unchecked("table")?.narrow(0, 0, 3));
    assert!(matches!(result, Err(CheckpointError::Mismatch(mismatch)) if mismatch.missing == ["table"]));
    let result = checkpoint.load(DType::F32, &Device::Cpu, |_| true, |vb| vb.get(4, "half")?.narrow(0, 0, 9));
    assert!(matches!(result, Err(CheckpointError::Build { .. })));
}

#[test]
fn long_lists_are_cut_and_counted() {
    let mismatch = Mismatch { missing: (0..25).map(|index| format!("t{index}")).collect(), ..Mismatch::default() };
    let text = mismatch.to_string();
    assert!(text.contains("25 missing") && text.contains("t19 and 5 more") && !text.contains("t20"), "{text}");
}

#[test]
fn broken_safetensors_say_what_is_wrong() {
    let entry = |rest: &str| format!(r#"{{"a":{{"dtype":"F32",{rest}}}}}"#);
    let cases = [
        (vec![], "truncated"),
        (vec![1, 2, 3], "truncated"),
        (u64::MAX.to_le_bytes().to_vec(), "its header claims"),
        (safetensors("{", &[]), "its header"),
        (safetensors(&entry(r#""shape":[2],"data_offsets":[0,8]"#), &[0; 4]), "truncated"),
        (safetensors(&entry(r#""shape":[2],"data_offsets":[0,8]"#), &[0; 9]), "cover 8 bytes"),
        (safetensors(&entry(r#""shape":[3],"data_offsets":[0,8]"#), &[0; 8]), "needs 12 bytes"),
        (safetensors(&entry(r#""shape":[2],"data_offsets":[8,0]"#), &[0; 8]), "backwards"),
        (safetensors(&entry(r#""shape":[4294967296,4294967296,4],"data_offsets":[0,8]"#), &[0; 8]), "overflows"),
        (safetensors(&entry(r#""shape":[4294967296,4294967296,0],"data_offsets":[0,0]"#), &[]), "overflows"),
        (
            safetensors(&entry(r#""shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]"#), &[]),
            "overflow",
        ),
        (safetensors(&entry(r#""shape":[-1],"data_offsets":[0,8]"#), &[0; 8]), "its header"),
        (safetensors(r#"{"a":{"dtype":"X9","shape":[2],"data_offsets":[0,8]}}"#, &[0; 8]), "unknown type \"X9\""),
    ];
    for (bytes, expected) in cases {
        let reason = reason("a.safetensors", &bytes);
        assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
    }
}

#[test]
fn overlapping_and_repeated_tensors_are_refused() {
    let two = |second: &str, offsets: &str| {
        let header = format!(
            r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"{second}":{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}}}"#
        );
        reason("a.safetensors", &safetensors(&header, &[0; 8]))
    };
    assert!(two("b", "[2,6]").contains("overlap"));
    assert!(two("a", "[4,8]").contains("given twice"));
    let (_folder, path) = file("a.safetensors", &small_safetensors("a"));
    let twice = Checkpoint::open_all(&[path.clone(), path]).unwrap_err();
    assert!(matches!(twice, CheckpointError::Duplicate { name, .. } if name == "a"));
}

fn sharded(weight_map: &str) -> Result<Checkpoint, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(folder.path().join("outside.safetensors"), small_safetensors("c")).unwrap();
    fs::write(inside.join("1.safetensors"), small_safetensors("a")).unwrap();
    fs::write(inside.join("2.safetensors"), small_safetensors("b")).unwrap();
    let index = inside.join("model.safetensors.index.json");
    fs::write(&index, format!(r#"{{"metadata":{{"total_size":16}},"weight_map":{weight_map}}}"#)).unwrap();
    Checkpoint::open(&index)
}

#[test]
fn shards_are_joined_by_their_index() {
    let joined = sharded(r#"{"a":"1.safetensors","b":"2.safetensors"}"#).unwrap();
    assert_eq!(joined.names().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_bad_index_is_refused() {
    let cases = [
        (r#"{"c":"../outside.safetensors"}"#, "outside the index's folder"),
        (r#"{"c":"/etc/hostname.safetensors"}"#, "outside the index's folder"),
        (r#"{"c":""}"#, "outside the index's folder"),
        (r#"{"a":"3.safetensors"}"#, "cannot open"),
        (r#"{"a":"1.safetensors","x":"1.safetensors"}"#, "1 tensors are not in the shards it names: x"),
        (r#"{"a":"2.safetensors","b":"2.safetensors"}"#, "not in the shards it names: a"),
        (r#"{"a":"1.safetensors","a":"2.safetensors"}"#, "given twice"),
        (r#"{"a":"model.safetensors.index.json"}"#, "its ending says no known format"),
    ];
    for (map, expected) in cases {
        let reason = sharded(map).unwrap_err().to_string();
        assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
    }
}

/// Builds a zip archive in the layout of `torch.save`, with the given pickle and one storage of 16 bytes.
fn torch_file(pickle: &[u8], compression: zip::CompressionMethod) -> Vec<u8> {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(compression);
    for (name, content) in [("archive/data.pkl", pickle), ("archive/data/0", &[0; 16])] {
        zip.start_file(name, options).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// Builds a pickle of `{"t": tensor}` with the given offset, shape and strides over a storage "0" of `elements`
/// floats.
fn tensor_pickle(elements: u8, offset: u8, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let tuple = |values: &[i32]| {
        let items = values.iter().flat_map(|value| [&b"J"[..], &value.to_le_bytes()].concat());
        [&b"("[..], &items.collect::<Vec<_>>(), b"t"].concat()
    };
    let storage =
        [&b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK"[..], &[elements], b"tQ"].concat();
    let head = b"\x80\x02}X\x01\0\0\0tctorch._utils\n_rebuild_tensor_v2\n(";
    [&head[..], &storage, b"K", &[offset], &tuple(shape), &tuple(strides), b"\x89NtRs."].concat()
}

#[test]
fn hand_made_torch_files_are_read() {
    let bytes = torch_file(&tensor_pickle(4, 0, &[2, 2], &[1, 2]), zip::CompressionMethod::Stored);
    let (_folder, path) = file("a.pth", &bytes);
    assert_eq!(values(&Checkpoint::open(&path).unwrap(), "t"), [0.0; 4]);
}

#[test]
fn broken_torch_files_say_what_is_wrong() {
    let stored = |pickle: &[u8]| torch_file(pickle, zip::CompressionMethod::Stored);
    let cycle = b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.";
    let cases = [
        (b"garbage".to_vec(), "no zip archive"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), "before 1.6"),
        (b"PK\x03\x04 nothing more".to_vec(), "its zip"),
        (stored(b"\x80\x02N."), "no dictionary"),
        (stored(cycle), "nest deeper"),
        (stored(&tensor_pickle(5, 0, &[5], &[1])), "fewer than its elements"),
        (stored(&tensor_pickle(4, 1, &[4], &[1])), "exceeds its storage"),
        (stored(&tensor_pickle(4, 0, &[2, 2], &[3, 2])), "exceeds its storage"),
        (stored(&tensor_pickle(4, 0, &[i32::MAX, i32::MAX, 9], &[0, 0, 0])), "overflows"),
        (stored(&tensor_pickle(4, 0, &[i32::MAX], &[0])), "exceeds its storage"),
        (stored(&tensor_pickle(4, 0, &[-1], &[1])), "-1 is no size"),
        (stored(&tensor_pickle(4, 0, &[2, 2], &[1])), "differ in length"),
        (stored(&tensor_pickle(4, 0, &[1; 65], &[1; 65])), "65 dimensions"),
        (torch_file(&tensor_pickle(4, 0, &[4], &[1]), zip::CompressionMethod::Deflated), "compressed"),
    ];
    for (bytes, expected) in cases {
        let reason = reason("a.pth", &bytes);
        assert!(reason.contains(expected), "{reason:?} lacks {expected:?}");
    }
}

#[test]
fn dictionaries_that_multiply_by_reference_are_refused() {
    // Each level refers twice to the level below: 2^15 paths in about 300 bytes.
    let mut pickle = b"\x80\x02}q\x00X\x01\0\0\0xK\x01s".to_vec();
    for level in 0..15u8 {
        let (below, above) = (level, level + 1);
        pickle.extend_from_slice(&[b'}', b'q', above, b'(']);
        pickle.extend_from_slice(&[b'X', 1, 0, 0, 0, b'a', b'h', below, b'X', 1, 0, 0, 0, b'b', b'h', below, b'u']);
    }
    pickle.push(b'.');
    let reason = reason("a.pth", &torch_file(&pickle, zip::CompressionMethod::Stored));
    assert!(reason.contains("refer to each other too often"), "{reason}");
}

#[test]
fn one_dictionary_under_many_names_is_refused_before_it_is_visited_again_and_again() {
    // Entries of four bytes, each of which refers to all others.
    for key in [&b"K\x07"[..], b"X\x01\0\0\0a"] {
        let entries = [key, b"h\x01"].concat().repeat(5_000);
        let inner = [&b"}q\x00(cfilled\nwith\n)Rq\x01"[..], b"0", &entries, b"u0"].concat();
        let outer = [key, b"h\x00"].concat().repeat(5_000);
        let pickle = [&b"\x80\x02"[..], &inner, b"}(", &outer, b"u."].concat();
        let reason = reason("a.pth", &torch_file(&pickle, zip::CompressionMethod::Stored));
        assert!(reason.contains("refer to each other too often"), "{reason}");
    }
    // The same with keys that name nothing: their entries are not kept.
    let inner = [&b"}q\x00("[..], &b"Nh\x00".repeat(5_000), b"u0"].concat();
    let pickle = [&b"\x80\x02"[..], &inner, b"}(", &b"K\x07h\x00".repeat(5_000), b"u."].concat();
    let (_folder, path) = file("a.pth", &torch_file(&pickle, zip::CompressionMethod::Stored));
    assert_eq!(Checkpoint::open(&path).unwrap().names().count(), 0);
}

#[test]
fn other_files_are_refused_in_words() {
    assert!(reason("weights.gguf", b"GGUF").contains("no known format"));
    let missing = Checkpoint::open(Path::new("no/such.safetensors")).unwrap_err();
    assert!(missing.to_string().starts_with("cannot open no/such.safetensors"));
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().join("a.safetensors");
    fs::create_dir(&inside).unwrap();
    assert!(Checkpoint::open(&inside).unwrap_err().to_string().contains("folder"));
}

/// Opens the file and reads every tensor. Must return, not panic, whatever the file contains.
fn read_all(name: &str, bytes: &[u8]) {
    let (_folder, path) = file(name, bytes);
    let Ok(checkpoint) = Checkpoint::open(&path) else { return };
    let total: usize = checkpoint.names().map(|name| checkpoint.shape(name).unwrap().iter().product::<usize>()).sum();
    assert!(total <= bytes.len() * checkpoint.names().count(), "{total} elements out of {} bytes", bytes.len());
    let tensors: HashMap<_, _> =
        checkpoint.names().map(|name| (name, checkpoint.tensor(name, DType::F32, &Device::Cpu))).collect();
    drop(tensors);
}

fn mutated(name: &str, flips: &[(prop::sample::Index, u8)], keep: Option<prop::sample::Index>) -> Vec<u8> {
    let mut bytes = fs::read(data(name)).expect("the file is part of the repository");
    for (at, mask) in flips {
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
    }
    if let Some(keep) = keep {
        bytes.truncate(keep.index(bytes.len()));
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        source in prop::sample::select(&["flat.pth", "nested.pth", "flat.safetensors"][..]),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 0..4),
        keep in prop::option::weighted(0.3, any::<prop::sample::Index>()),
    ) {
        read_all(source, &mutated(source, &flips, keep));
    }

    #[test]
    fn arbitrary_pickles_never_panic(
        pickle in prop::collection::vec(prop_oneof![
            3 => prop::sample::select(&b"(.012NGKMJXTUCBt)]}ldaesucRbQqrhj\x80\x81\x85\x86\x87\x88\x8a\x8c\x93\x94\n\0"[..]),
            1 => any::<u8>(),
        ], 0..200),
    ) {
        read_all("a.pth", &torch_file(&pickle, zip::CompressionMethod::Stored));
    }

    #[test]
    fn damaged_tensor_descriptions_never_panic(
        elements in any::<u8>(), offset in any::<u8>(),
        shape in prop::collection::vec(prop_oneof![0..5i32, any::<i32>()], 0..4),
        strides in prop::collection::vec(prop_oneof![0..5i32, any::<i32>()], 0..4),
    ) {
        let pickle = tensor_pickle(elements, offset, &shape, &strides);
        read_all("a.pth", &torch_file(&pickle, zip::CompressionMethod::Stored));
    }
}
