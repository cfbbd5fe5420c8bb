//! Checkpoint files: a zip archive is a PyTorch file, `{` begins an index of shards, 0x80 a bare pickle, and all else is
//! taken as safetensors.

use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
};

use echogen_checkpoint::Checkpoint;

use crate::message;

pub(crate) fn run(data: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let (name, content) = match data.first() {
        Some(b'P') => ("a.pth", data.to_vec()),
        Some(b'{') => ("a.safetensors.index.json", data.to_vec()),
        Some(0x80) => ("a.pth", archive(data).unwrap_or_default()),
        _ => ("a.safetensors", data.to_vec()),
    };
    let path = folder.path().join(name);
    if fs::write(&path, &content).is_ok() {
        open(&path, content.len());
    }
}

fn open(path: &Path, length: usize) {
    let Some(checkpoint) = message::check(Checkpoint::open(path)) else { return };
    for name in checkpoint.names() {
        let elements: usize = checkpoint.shape(name).unwrap_or_default().iter().product();
        assert!(elements <= length, "{elements} elements out of {length} bytes");
    }
}

/// A PyTorch file of that pickle and one storage.
fn archive(pickle: &[u8]) -> zip::result::ZipResult<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [("a/data.pkl", pickle), ("a/data/0", &[0; 64])] {
        zip.start_file(name, options)?;
        zip.write_all(content)?;
    }
    Ok(zip.finish()?.into_inner())
}
