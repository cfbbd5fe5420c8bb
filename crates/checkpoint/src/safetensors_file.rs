//! The `.safetensors` format: eight bytes of header length, a JSON header, then the tensors' bytes without gaps.
//!
//! Parsed here rather than by the `safetensors` crate, so that duplicated names are an error and every error names its
//! tensor. <https://github.com/huggingface/safetensors#format>

use crate::mapped::MappedFile;
use crate::stored::{MAX_DIMENSIONS, StoredTensor, StoredType};
use crate::unique_map::UniqueMap;
use crate::{CheckpointError, Tensors};
use echogen_protocol::json::{self, Bounds};
use echogen_protocol::text::quoted;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Maximum header length in bytes, the same limit as in the `safetensors` library.
const MAX_HEADER_BYTES: usize = 100_000_000;
/// Offset of the header's JSON.
const HEADER_START: usize = 8;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    #[serde(deserialize_with = "dimensions")]
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

/// Reads a shape, which ends at the greatest number of dimensions: its numbers take more memory than the file has bytes.
fn dimensions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<usize>, D::Error> {
    struct Dimensions;

    impl<'de> Visitor<'de> for Dimensions {
        type Value = Vec<usize>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of sizes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Self::Value, A::Error> {
            let mut shape = Vec::new();
            while let Some(size) = sizes.next_element()? {
                if shape.len() == MAX_DIMENSIONS {
                    return Err(A::Error::custom(format_args!("a shape has at most {MAX_DIMENSIONS} dimensions")));
                }
                shape.push(size);
            }
            Ok(shape)
        }
    }

    deserializer.deserialize_seq(Dimensions)
}

pub(crate) fn open(path: &Path, tensors: &mut Tensors) -> Result<(), CheckpointError> {
    let file = Arc::new(MappedFile::open(path)?);
    let malformed = |reason: String| CheckpointError::malformed(path, reason);
    let (header, data_start) = header(file.bytes()).map_err(malformed)?;
    let UniqueMap::<Entry>(entries) = json::read(header, &Bounds::table(MAX_HEADER_BYTES))
        .map_err(|error| malformed(format!("its header: {error}")))?;
    let mut ranges = Vec::with_capacity(entries.len());
    for (name, entry) in entries {
        ranges.push(entry.data_offsets);
        let tensor = stored(&file, data_start, entry)
            .map_err(|reason| malformed(format!("tensor {}: {reason}", quoted(&name))))?;
        tensors.insert(name, tensor)?;
    }
    check_ranges(ranges, file.bytes().len() - data_start).map_err(malformed)
}

/// Returns the header's JSON and the offset of the tensors' bytes.
fn header(bytes: &[u8]) -> Result<(&[u8], usize), String> {
    let Some((length, rest)) = bytes.split_first_chunk::<HEADER_START>() else {
        return Err(format!("{} bytes are too few for a safetensors file (truncated?)", bytes.len()));
    };
    let length = u64::from_le_bytes(*length);
    let in_bounds = usize::try_from(length).ok().filter(|&length| length <= MAX_HEADER_BYTES);
    let header = in_bounds
        .and_then(|length| rest.get(..length))
        .ok_or_else(|| format!("its header claims {length} bytes of {} (truncated, or not safetensors)", rest.len()))?;
    Ok((header, HEADER_START + header.len()))
}

fn stored(file: &Arc<MappedFile>, data_start: usize, entry: Entry) -> Result<StoredTensor, String> {
    let [begin, end] = entry.data_offsets;
    let Some(length) = end.checked_sub(begin) else {
        return Err(format!("data_offsets {begin}..{end} run backwards"));
    };
    let start = data_start.checked_add(begin).ok_or_else(|| format!("data_offsets {begin}..{end} overflow"))?;
    let dtype = StoredType::from_name(&entry.dtype).ok_or_else(|| format!("unknown type {}", quoted(&entry.dtype)))?;
    StoredTensor::contiguous(file.clone(), start, length, dtype, entry.shape)
}

/// Checks that the tensors cover the bytes exactly once: no overlap, no gap, nothing after the last tensor.
fn check_ranges(mut ranges: Vec<[usize; 2]>, available: usize) -> Result<(), String> {
    ranges.sort_unstable();
    let mut covered = 0;
    for [begin, end] in ranges {
        if begin != covered {
            let fault = if begin < covered { "overlap" } else { "leave a hole" };
            return Err(format!("tensors {fault} at byte {begin} of the data"));
        }
        covered = end;
    }
    if covered != available {
        return Err(format!("its tensors cover {covered} bytes of data, the file has {available}"));
    }
    Ok(())
}
