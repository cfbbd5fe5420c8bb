//! Conversion of any checkpoint to one `.safetensors` file, with one tensor in memory at a time.

use crate::stored::{StoredTensor, StoredType, element_count};
use crate::weight_type::{Q8_0_SUFFIX, WeightType, q8_0_blocks, q8_0_shape};
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

/// What becomes of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// It is not written.
    LeftOut,
    /// It keeps its type.
    AsStored,
    /// It is written in this type, if it is of a floating-point type.
    Plain(StoredType),
    /// A weight (out, in) is written in blocks of [`WeightType::Q8_0`]: bytes (out, in / 32, 34), under its name and `.q8_0`.
    Blocks,
}

impl Form {
    /// The form of a weight of this type.
    pub fn of(dtype: WeightType) -> Self {
        dtype.stored().map_or(Self::Blocks, Self::Plain)
    }
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
    name: Cow<'a, str>,
    tensor: &'a StoredTensor,
    dtype: StoredType,
    shape: Cow<'a, [usize]>,
    is_in_blocks: bool,
    bytes: usize,
}

pub(crate) fn convert(
    checkpoint: &Checkpoint,
    target: &Path,
    options: ConvertOptions,
    progress: Progress<'_>,
) -> Result<ConvertSummary, CheckpointError> {
    let form = |_: &str, _: &[usize]| options.dtype.map_or(Form::AsStored, Form::Plain);
    convert_each(checkpoint, target, options.overwrite, &form, progress)
}

pub(crate) fn convert_each(
    checkpoint: &Checkpoint,
    target: &Path,
    overwrite: bool,
    form: &dyn Fn(&str, &[usize]) -> Form,
    progress: Progress<'_>,
) -> Result<ConvertSummary, CheckpointError> {
    if !overwrite && target.exists() {
        return Err(CheckpointError::TargetExists(target.to_owned()));
    }
    let planned = plan(checkpoint, form)?;
    let io = |source| CheckpointError::io("write", target, source);
    // Deleted when dropped, so every error path removes it.
    let mut partial = temporary::beside(target).map_err(io)?;
    let bytes = write(partial.as_file_mut(), target, &planned, progress)?;
    let placed = if overwrite { partial.persist(target) } else { partial.persist_noclobber(target) };
    match placed {
        Ok(_) => Ok(ConvertSummary { tensors: planned.len(), bytes }),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
            Err(CheckpointError::TargetExists(target.to_owned()))
        }
        Err(error) => Err(io(error.error)),
    }
}

/// Chooses each tensor's form and orders tensors by element size, largest first, so that every tensor is aligned.
fn plan<'a>(
    checkpoint: &'a Checkpoint,
    form: &dyn Fn(&str, &[usize]) -> Form,
) -> Result<Vec<Planned<'a>>, CheckpointError> {
    let mut planned = Vec::with_capacity(checkpoint.tensors.len());
    for (name, tensor) in checkpoint.tensors.iter() {
        let form = form(name, tensor.shape());
        let written = planned_tensor(name, tensor, form);
        let malformed = |reason| CheckpointError::malformed(tensor.path(), format!("tensor {name} {reason}"));
        planned.extend(written.map_err(malformed)?);
    }
    planned.sort_by(|a, b| (b.dtype.size(), &a.name).cmp(&(a.dtype.size(), &b.name)));
    Ok(planned)
}

/// Returns what is written of a tensor; the error is the reason why it cannot be.
fn planned_tensor<'a>(name: &'a str, tensor: &'a StoredTensor, form: Form) -> Result<Option<Planned<'a>>, String> {
    let is_in_blocks = form == Form::Blocks && tensor.dtype().is_float();
    let (name, shape, dtype) = match (form, tensor.shape()) {
        (Form::LeftOut, _) => return Ok(None),
        (Form::Blocks, &[outputs, inputs]) if is_in_blocks => (
            Cow::Owned(format!("{name}{Q8_0_SUFFIX}")),
            Cow::Owned(q8_0_shape(outputs, inputs).to_vec()),
            StoredType::U8,
        ),
        (Form::Blocks, shape) if is_in_blocks => return Err(format!("is no weight of a linear layer: {shape:?}")),
        (Form::Plain(dtype), shape) if tensor.dtype().is_float() => (Cow::Borrowed(name), Cow::Borrowed(shape), dtype),
        (_, shape) => (Cow::Borrowed(name), Cow::Borrowed(shape), tensor.dtype()),
    };
    let bytes = element_count(&shape).and_then(|count| count.checked_mul(dtype.size())).ok_or("overflows")?;
    Ok(Some(Planned { name, tensor, dtype, shape, is_in_blocks, bytes }))
}

fn header(planned: &[Planned<'_>]) -> (Vec<u8>, u64) {
    let mut entries = Map::new();
    let mut offset = 0u64;
    for Planned { name, dtype, shape, bytes, .. } in planned {
        let end = offset + *bytes as u64;
        let entry = json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [offset, end]});
        entries.insert(name.to_string(), entry);
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
        let bytes = match self.dtype.candle() {
            _ if self.is_in_blocks => {
                self.tensor.read(DType::F32, &Device::Cpu).and_then(|weight| q8_0_blocks(&weight))
            }
            Some(dtype) => self.tensor.read(dtype, &Device::Cpu).and_then(|tensor| little_endian_bytes(&tensor)),
            None => Err(candle_core::Error::Msg(format!("{} cannot be converted to", self.dtype.name()))),
        };
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
