//! Types in which a bundle's weights can be stored, and the bytes that a weight takes in each.

use crate::stored::{StoredType, element_count};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor, bail};
use std::fmt;
use std::str::FromStr;

/// Weights that share a scale in [`WeightType::Q8_0`].
pub const Q8_0_WEIGHTS: usize = 32;
/// Bytes of such a block: the scale in f16, then one signed byte for each weight.
pub(crate) const Q8_0_BYTES: usize = 34;
/// Added to the name of a weight that is stored in blocks.
pub const Q8_0_SUFFIX: &str = ".q8_0";

/// A type in which the weights of the large networks can be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightType {
    /// float32, 4 bytes.
    F32,
    /// float16, 2 bytes.
    F16,
    /// bfloat16, 2 bytes.
    Bf16,
    /// Blocks of 32 weights of a row: a common scale in f16 and 32 signed bytes, 1.0625 bytes a weight. The layout is that
    /// of Q8_0 in GGML and GGUF. For the weights of linear layers only.
    Q8_0,
}

/// A word that names no type.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no type of weights; give f32, f16, bf16 or q8_0")]
pub struct UnknownWeightType(String);

impl WeightType {
    /// All types, the largest first.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0];

    /// Returns the type's name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// Returns the type that a linear layer's weight (out, in) has where this type is asked for: rows that do not divide into
    /// blocks stay in bf16.
    #[must_use]
    pub fn of_linear(self, shape: &[usize]) -> Self {
        let fits =
            matches!(shape, [outputs, inputs] if *outputs > 0 && *inputs > 0 && inputs.is_multiple_of(Q8_0_WEIGHTS));
        if self == Self::Q8_0 && !fits { Self::Bf16 } else { self }
    }

    /// Returns the type that everything but the weights of linear layers has where this type is asked for.
    #[must_use]
    pub fn of_others(self) -> Self {
        if self == Self::Q8_0 { Self::Bf16 } else { self }
    }

    /// Returns the bytes of a tensor of this shape, in a file as on a device; `None` if the number overflows. For Q8_0 the last
    /// dimension must divide into blocks ([`WeightType::of_linear`]).
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let count = element_count(shape)?;
        match self {
            Self::F32 => count.checked_mul(4),
            Self::F16 | Self::Bf16 => count.checked_mul(2),
            Self::Q8_0 => count.div_ceil(Q8_0_WEIGHTS).checked_mul(Q8_0_BYTES),
        }
    }

    /// Returns the plain type of a file, `None` for blocks.
    pub fn stored(self) -> Option<StoredType> {
        match self {
            Self::F32 => Some(StoredType::F32),
            Self::F16 => Some(StoredType::F16),
            Self::Bf16 => Some(StoredType::BF16),
            Self::Q8_0 => None,
        }
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for WeightType {
    type Err = UnknownWeightType;

    fn from_str(text: &str) -> Result<Self, UnknownWeightType> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.name() == text);
        found.ok_or_else(|| UnknownWeightType(text.to_owned()))
    }
}

/// Returns the shape in which a weight (out, in) is stored in blocks: (out, in / 32, 34) bytes.
pub fn q8_0_shape(outputs: usize, inputs: usize) -> [usize; 3] {
    [outputs, inputs / Q8_0_WEIGHTS, Q8_0_BYTES]
}

/// Returns the blocks of a weight (out, in), row by row.
pub(crate) fn q8_0_blocks(weight: &Tensor) -> candle_core::Result<Vec<u8>> {
    let (_, inputs) = weight.dims2()?;
    if !inputs.is_multiple_of(Q8_0_WEIGHTS) {
        bail!("rows of {inputs} do not divide into blocks of {Q8_0_WEIGHTS}");
    }
    let weight = weight.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.contiguous()?;
    Ok(QTensor::quantize(&weight, GgmlDType::Q8_0)?.data()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_takes_the_bytes_of_its_type() {
        let bytes = |dtype: WeightType| dtype.bytes(&[64, 2048]).unwrap();
        assert_eq!(WeightType::ALL.map(bytes), [524_288, 262_144, 262_144, 139_264]);
        assert_eq!(WeightType::Q8_0.bytes(&[usize::MAX, 32]), None);
        let [outputs, blocks, block] = q8_0_shape(64, 2048);
        assert_eq!(outputs * blocks * block, bytes(WeightType::Q8_0));
    }

    #[test]
    fn rows_that_do_not_divide_into_blocks_stay_in_bf16() {
        assert_eq!(WeightType::Q8_0.of_linear(&[7, 64]), WeightType::Q8_0);
        assert_eq!(WeightType::Q8_0.of_linear(&[64, 48]), WeightType::Bf16);
        assert_eq!(WeightType::Q8_0.of_linear(&[64]), WeightType::Bf16);
        assert_eq!(WeightType::F16.of_linear(&[64, 48]), WeightType::F16);
        assert_eq!(WeightType::Q8_0.of_others(), WeightType::Bf16);
        assert!(q8_0_blocks(&Tensor::zeros((2, 48), DType::F32, &Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn blocks_are_a_scale_and_signed_bytes() {
        let row: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) * 0.5).collect();
        let blocks = q8_0_blocks(&Tensor::from_vec(row.clone(), (1, 32), &Device::Cpu).unwrap()).unwrap();
        assert_eq!(blocks.len(), Q8_0_BYTES);
        let scale = half::f16::from_le_bytes([blocks[0], blocks[1]]).to_f32();
        assert!((scale - 8.0 / 127.0).abs() < 1e-4, "{scale}");
        for (byte, value) in blocks[2..].iter().zip(row) {
            assert!((f32::from(*byte as i8) * scale - value).abs() <= scale * 0.51, "{byte} for {value}");
        }
    }

    #[test]
    fn types_have_names() {
        for dtype in WeightType::ALL {
            assert_eq!(dtype.to_string().parse::<WeightType>().unwrap(), dtype);
        }
        assert!("q4".parse::<WeightType>().unwrap_err().to_string().contains("bf16 or q8_0"));
    }
}
