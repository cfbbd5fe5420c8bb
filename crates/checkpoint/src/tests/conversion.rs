//! Tests of the conversion of checkpoints to one `.safetensors` file.

use super::*;

fn convert(source: &str, dtype: Option<StoredType>) -> (TempDir, Checkpoint, ConvertSummary) {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.safetensors");
    let options = ConvertOptions { dtype, overwrite: false };
    let summary = Checkpoint::open(&data(source)).unwrap().convert(&target, options, &mut |_, _| {}).unwrap();
    let converted = Checkpoint::open(&target).unwrap();
    (folder, converted, summary)
}

#[test]
fn conversion_keeps_every_value_and_the_library_reads_it() {
    let original = Checkpoint::open(&data("flat.safetensors")).unwrap();
    let (folder, converted, summary) = convert("flat.pth", None);
    for name in original.names() {
        assert_eq!(converted.stored_type(name), original.stored_type(name), "{name}");
        assert_eq!(values(&converted, name), values(&original, name), "{name}");
    }
    let bytes = fs::read(folder.path().join("out.safetensors")).unwrap();
    let (header, metadata) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!((header % 8, metadata.tensors().len(), bytes.len() as u64), (0, summary.tensors, summary.bytes));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
}

#[test]
fn two_conversions_to_one_target_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.safetensors");
    let (first, second) = (Checkpoint::open(&data("flat.pth")).unwrap(), Checkpoint::open(&data("flat.pth")).unwrap());
    let wide = ConvertOptions { dtype: None, overwrite: true };
    let narrow = ConvertOptions { dtype: Some(StoredType::BF16), overwrite: true };
    let mut second = Some(second);
    let mut progress = |_, _| {
        // Another process performs a whole conversion to the same target while this one is writing.
        if let Some(second) = second.take() {
            second.convert(&target, narrow, &mut |_, _| {}).unwrap();
        }
    };
    first.convert(&target, wide, &mut progress).unwrap();
    let converted = Checkpoint::open(&target).unwrap();
    for name in first.names() {
        assert_eq!(converted.stored_type(name), first.stored_type(name), "{name}");
        assert_eq!(values(&converted, name), values(&first, name), "{name}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
}

#[test]
fn conversion_changes_the_type_of_floats_only() {
    let (_folder, converted, _) = convert("flat.pth", Some(StoredType::BF16));
    assert_eq!(converted.stored_type("double"), Some(StoredType::BF16));
    assert_eq!(converted.stored_type("long"), Some(StoredType::I64));
    let original = Checkpoint::open(&data("flat.pth")).unwrap();
    let expected = original.tensor("permuted", DType::BF16, &Device::Cpu).unwrap();
    let expected: Vec<f32> = expected.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(values(&converted, "permuted"), expected);
}

#[test]
fn conversion_to_an_integer_type_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = ConvertOptions { dtype: Some(StoredType::I32), overwrite: false };
    let checkpoint = Checkpoint::open(&data("flat.pth")).unwrap();
    let error = checkpoint.convert(&folder.path().join("out.safetensors"), options, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("not a floating-point type"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left");
}

#[test]
fn conversion_overwrites_only_when_told() {
    let (_folder, target) = file("out.safetensors", b"precious");
    let checkpoint = Checkpoint::open(&data("flat.pth")).unwrap();
    let refused = checkpoint.convert(&target, ConvertOptions::default(), &mut |_, _| {}).unwrap_err();
    assert!(refused.to_string().contains("--force"));
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    let options = ConvertOptions { overwrite: true, ..ConvertOptions::default() };
    checkpoint.convert(&target, options, &mut |_, _| {}).unwrap();
    assert_eq!(Checkpoint::open(&target).unwrap().names().count(), 16);
}
