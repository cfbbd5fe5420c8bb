//! One tensor in a file: position, element type, shape and strides.

use crate::mapped::MappedFile;
use candle_core::{DType, Device, Tensor};
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// Maximum number of dimensions of a tensor, as in PyTorch.
pub(crate) const MAX_DIMENSIONS: usize = 64;

/// Element types of checkpoints, including those that candle cannot compute with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoredType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8 bit.
    U8,
    /// Signed 8 bit.
    I8,
    /// 8-bit float with 4 exponent bits.
    F8E4M3,
    /// 8-bit float with 5 exponent bits.
    F8E5M2,
    /// Unsigned 16 bit.
    U16,
    /// Signed 16 bit.
    I16,
    /// Half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Unsigned 32 bit.
    U32,
    /// Signed 32 bit.
    I32,
    /// Single precision.
    F32,
    /// Unsigned 64 bit.
    U64,
    /// Signed 64 bit.
    I64,
    /// Double precision.
    F64,
}

/// Each type with its name in safetensors headers and its size in bytes.
const TYPES: [(StoredType, &str, usize); 15] = [
    (StoredType::Bool, "BOOL", 1),
    (StoredType::U8, "U8", 1),
    (StoredType::I8, "I8", 1),
    (StoredType::F8E4M3, "F8_E4M3", 1),
    (StoredType::F8E5M2, "F8_E5M2", 1),
    (StoredType::U16, "U16", 2),
    (StoredType::I16, "I16", 2),
    (StoredType::F16, "F16", 2),
    (StoredType::BF16, "BF16", 2),
    (StoredType::U32, "U32", 4),
    (StoredType::I32, "I32", 4),
    (StoredType::F32, "F32", 4),
    (StoredType::U64, "U64", 8),
    (StoredType::I64, "I64", 8),
    (StoredType::F64, "F64", 8),
];

impl StoredType {
    /// Returns the type with this name in a safetensors header, if it is supported.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        TYPES.iter().find(|entry| entry.1 == name).map(|entry| entry.0)
    }

    /// Returns the type's name in safetensors headers.
    pub fn name(self) -> &'static str {
        TYPES.iter().find(|entry| entry.0 == self).map_or("?", |entry| entry.1)
    }

    /// Returns the size of one element in bytes.
    pub fn size(self) -> usize {
        TYPES.iter().find(|entry| entry.0 == self).map_or(1, |entry| entry.2)
    }

    /// Returns whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2 | Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }

    /// Returns the corresponding candle type, if there is one.
    pub(crate) fn candle(self) -> Option<DType> {
        Some(match self {
            Self::Bool | Self::U8 => DType::U8,
            Self::I16 => DType::I16,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::U32 => DType::U32,
            Self::I32 => DType::I32,
            Self::F32 => DType::F32,
            Self::I64 => DType::I64,
            Self::F64 => DType::F64,
            Self::I8 | Self::F8E4M3 | Self::F8E5M2 | Self::U16 | Self::U64 => return None,
        })
    }
}

/// The position and layout of one tensor. All values have been checked against the file's length.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor {
    file: Arc<MappedFile>,
    /// Offset of the tensor's bytes if contiguous, else of its whole storage.
    start: usize,
    length: usize,
    dtype: StoredType,
    shape: Vec<usize>,
    strides: Option<Strides>,
}

/// A view of a storage that is not contiguous from the storage's start. Offsets and strides are in elements.
#[derive(Clone, Debug)]
struct Strides {
    offset: usize,
    strides: Vec<usize>,
}

/// Returns the number of elements of `shape`, or `None` if the product overflows.
///
/// A zero extent does not hide an overflow of the others, because later code may multiply a subset of the extents.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    let extents = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent.max(1)))?;
    let empty = shape.contains(&0);
    Some(if empty { 0 } else { extents })
}

impl StoredTensor {
    /// A contiguous row-major tensor in the file's bytes `start..start + length`.
    pub(crate) fn contiguous(
        file: Arc<MappedFile>,
        start: usize,
        length: usize,
        dtype: StoredType,
        shape: Vec<usize>,
    ) -> Result<Self, String> {
        if shape.len() > MAX_DIMENSIONS {
            return Err(format!("it has {} dimensions; the limit is {MAX_DIMENSIONS}", shape.len()));
        }
        let bytes = element_count(&shape).and_then(|count| count.checked_mul(dtype.size()));
        let bytes = bytes.ok_or_else(|| format!("shape {shape:?} overflows"))?;
        if bytes != length {
            return Err(format!("shape {shape:?} of {} needs {bytes} bytes, the file gives {length}", dtype.name()));
        }
        let end = start.checked_add(length);
        if end.is_none_or(|end| end > file.bytes().len()) {
            return Err(format!("its bytes {start}+{length} lie beyond the end of the file (truncated?)"));
        }
        Ok(Self { file, start, length, dtype, shape, strides: None })
    }

    /// A view of a storage in the file's bytes `start..start + length`, as PyTorch stores it.
    pub(crate) fn view(
        file: Arc<MappedFile>,
        (start, length): (usize, usize),
        dtype: StoredType,
        shape: Vec<usize>,
        offset: usize,
        strides: Vec<usize>,
    ) -> Result<Self, String> {
        if strides.len() != shape.len() {
            return Err(format!("shape {shape:?} and strides {strides:?} differ in length"));
        }
        let available = length / dtype.size();
        let count = element_count(&shape).ok_or_else(|| format!("shape {shape:?} overflows"))?;
        let last = last_element(&shape, offset, &strides).ok_or_else(|| format!("strides {strides:?} overflow"))?;
        if count > 0 && last >= available || count > available {
            return Err(format!(
                "shape {shape:?} with strides {strides:?} from element {offset} exceeds its storage of {available}"
            ));
        }
        if count == 0 || is_row_major(&shape, &strides) {
            // An empty tensor may have any offset, because nothing is read.
            let offset = if count == 0 { 0 } else { offset };
            return Self::contiguous(file, start + offset * dtype.size(), count * dtype.size(), dtype, shape);
        }
        Ok(Self { file, start, length, dtype, shape, strides: Some(Strides { offset, strides }) })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn dtype(&self) -> StoredType {
        self.dtype
    }

    /// Returns the tensor's bytes in row-major order, borrowed from the file if the tensor is contiguous.
    pub(crate) fn bytes(&self) -> Cow<'_, [u8]> {
        let storage = self.file.bytes().get(self.start..self.start.saturating_add(self.length)).unwrap_or_default();
        match &self.strides {
            None => Cow::Borrowed(storage),
            Some(view) => Cow::Owned(gather(storage, self.dtype.size(), &self.shape, view)),
        }
    }

    /// Reads the tensor, converted to `dtype`.
    pub(crate) fn read(&self, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let Some(stored) = self.dtype.candle() else {
            candle_core::bail!("its type {} cannot be computed with; convert it to F32 first", self.dtype.name())
        };
        Tensor::from_raw_buffer(&self.bytes(), stored, &self.shape, device)?.to_dtype(dtype)
    }
}

fn is_row_major(shape: &[usize], strides: &[usize]) -> bool {
    let mut expected = 1usize;
    shape.iter().zip(strides).rev().all(|(&extent, &stride)| {
        let fits = extent == 1 || stride == expected;
        expected = expected.saturating_mul(extent);
        fits
    })
}

fn last_element(shape: &[usize], offset: usize, strides: &[usize]) -> Option<usize> {
    shape
        .iter()
        .zip(strides)
        .try_fold(offset, |last, (&extent, &stride)| last.checked_add(extent.saturating_sub(1).checked_mul(stride)?))
}

fn gather(storage: &[u8], size: usize, shape: &[usize], view: &Strides) -> Vec<u8> {
    let count = element_count(shape).unwrap_or(0);
    let mut bytes = Vec::with_capacity(count * size);
    let mut index = vec![0usize; shape.len()];
    for _ in 0..count {
        let element: usize = view.offset + index.iter().zip(&view.strides).map(|(i, stride)| i * stride).sum::<usize>();
        bytes.extend_from_slice(storage.get(element * size..(element + 1) * size).unwrap_or_default());
        for (i, &extent) in index.iter_mut().zip(shape).rev() {
            *i += 1;
            if *i < extent {
                break;
            }
            *i = 0;
        }
    }
    bytes
}
