//! Conversion of any checkpoint to one `.safetensors` file, with one tensor in memory at a time.

use crate::stored::{StoredTensor, StoredType, element_count};
use crate::{Checkpoint, CheckpointError, temporary};
use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

/// Progress callback: (bytes written so far, total bytes to write).
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Options of a conversion.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConvertOptions {
    /// Target type of floating-point tensors: F64, F32, F16 or BF16. `None` keeps each type. Integer types are never
    /// changed.
    pub dtype: Option<StoredType>,
    /// Whether an existing target is overwritten.
    pub overwrite: bool,
}

/// Result of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertSummary {
    /// Number of tensors written.
    pub tensors: usize,
    /// Size of the new file in bytes.
    pub bytes: u64,
}

/// One tensor of the file to write.
struct Planned<'a> {
    name: &'a str,
    tensor: &'a StoredTensor,
    dtype: StoredType,
    bytes: usize,
}

pub(crate) fn convert(
    checkpoint: &Checkpoint,
    target: &Path,
    options: ConvertOptions,
    progress: Progress<'_>,
) -> Result<ConvertSummary, CheckpointError> {
    if !options.overwrite && target.exists() {
        return Err(CheckpointError::TargetExists(target.to_owned()));
    }
    let planned = plan(checkpoint, options.dtype)?;
    let io = |source| CheckpointError::io("write", target, source);
    // Deleted when dropped, so every error path removes it.
    let mut partial = temporary::beside(target).map_err(io)?;
    let bytes = write(partial.as_file_mut(), target, &planned, progress)?;
    let placed = if options.overwrite { partial.persist(target) } else { partial.persist_noclobber(target) };
    match placed {
        Ok(_) => Ok(ConvertSummary { tensors: planned.len(), bytes }),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            Err(CheckpointError::TargetExists(target.to_owned()))
        }
        Err(error) => Err(io(error.error)),
    }
}

/// Chooses each tensor's type and orders tensors by element size, largest first, so that every tensor is aligned.
fn plan(checkpoint: &Checkpoint, wanted: Option<StoredType>) -> Result<Vec<Planned<'_>>, CheckpointError> {
    let mut planned = Vec::with_capacity(checkpoint.tensors.len());
    for (name, tensor) in checkpoint.tensors.iter() {
        let dtype = wanted.filter(|_| tensor.dtype().is_float()).unwrap_or(tensor.dtype());
        let bytes = element_count(tensor.shape()).and_then(|count| count.checked_mul(dtype.size()));
        let bytes =
            bytes.ok_or_else(|| CheckpointError::malformed(tensor.path(), format!("tensor {name} overflows")))?;
        planned.push(Planned { name, tensor, dtype, bytes });
    }
    planned.sort_by_key(|planned| (std::cmp::Reverse(planned.dtype.size()), planned.name));
    Ok(planned)
}

fn header(planned: &[Planned<'_>]) -> (Vec<u8>, u64) {
    let mut entries = Map::new();
    let mut offset = 0u64;
    for Planned { name, tensor, dtype, bytes } in planned {
        let end = offset + *bytes as u64;
        let entry = json!({"dtype": dtype.name(), "shape": tensor.shape(), "data_offsets": [offset, end]});
        entries.insert((*name).to_owned(), entry);
        offset = end;
    }
    let mut json = Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    (header, offset)
}

fn write(
    file: &mut File,
    target: &Path,
    planned: &[Planned<'_>],
    progress: Progress<'_>,
) -> Result<u64, CheckpointError> {
    let io = |source| CheckpointError::io("write", target, source);
    let mut file = BufWriter::new(file);
    let (header, total) = header(planned);
    file.write_all(&header).map_err(io)?;
    let mut written = 0;
    progress(written, total);
    for planned in planned {
        file.write_all(&planned.content()?).map_err(io)?;
        written += planned.bytes as u64;
        progress(written, total);
    }
    let file = file.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)?;
    Ok(header.len() as u64 + total)
}

impl Planned<'_> {
    fn content(&self) -> Result<Cow<'_, [u8]>, CheckpointError> {
        if self.dtype == self.tensor.dtype() {
            return Ok(self.tensor.bytes());
        }
        let bytes = self.dtype.candle().map_or_else(
            || candle_core::bail!("{} cannot be converted to", self.dtype.name()),
            |dtype| little_endian_bytes(&self.tensor.read(dtype, &Device::Cpu)?),
        );
        let named = |error| CheckpointError::malformed(self.tensor.path(), format!("tensor {}: {error}", self.name));
        bytes.map(Cow::Owned).map_err(named)
    }
}

/// Supports only the floating-point types that a conversion can target.
fn little_endian_bytes(tensor: &Tensor) -> candle_core::Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    let dtype = flat.dtype();
    Ok(match dtype {
        DType::F64 => flat.to_vec1::<f64>()?.into_iter().flat_map(f64::to_le_bytes).collect(),
        DType::F32 => flat.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect(),
        DType::F16 => flat.to_vec1::<half::f16>()?.into_iter().flat_map(half::f16::to_le_bytes).collect(),
        DType::BF16 => flat.to_vec1::<half::bf16>()?.into_iter().flat_map(half::bf16::to_le_bytes).collect(),
        other => candle_core::bail!("{other:?} is not a floating-point type"),
    })
}
