//! Linear layers with a weight layout that is fast on the CPU, or with weights in blocks of 8 bits.

use std::{fmt, sync::Arc};

use candle_core::{
    DType, Device, Result, Tensor, bail,
    quantized::{GgmlDType, QStorage, QTensor},
};
use candle_nn::VarBuilder;
use echogen_checkpoint::q8_0_shape;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{
    bias::{add_bias, add_bias_relu},
    checked_matmul::CheckedMatmul,
};

/// Name of a weight in blocks of Q8_0.
const BLOCKS: &str = "weight.q8_0";

/// xs · Wᵀ (+ b). A published weight is (out, in). It is stored as (in, out), which saves the matrix product from
/// repacking the weight at every call; this matters for the few tokens of the first scales.
///
/// A weight in blocks is expanded to the type that the network computes in for each product. candle's own product of blocks
/// rounds the activations to 8 bits too, and chooses its way by the number of rows, so that a picture would depend on its batch.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

/// A layer's weight.
#[derive(Clone)]
enum Weight {
    /// (in, out); a view of a stored weight for [`Linear::as_stored`].
    Plain(Tensor),
    /// (out, in) in blocks of 8 bits, computed with in `dtype`.
    Blocks { blocks: Arc<QTensor>, dtype: DType },
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(weight) => weight.fmt(f),
            Self::Blocks { blocks, dtype } => f.debug_tuple("Blocks").field(blocks.shape()).field(dtype).finish(),
        }
    }
}

impl Weight {
    /// Loads `weight` (out, in), or the blocks that a converted bundle has instead.
    fn load(vb: &VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        match Self::blocks(vb, inputs, outputs)? {
            Some(blocks) => Ok(blocks),
            None => Ok(Self::Plain(vb.get((outputs, inputs), "weight")?.t()?.contiguous()?)),
        }
    }

    /// Loads the blocks, if that is how the weight is stored.
    fn blocks(vb: &VarBuilder, inputs: usize, outputs: usize) -> Result<Option<Self>> {
        if !vb.contains_tensor(BLOCKS) {
            return Ok(None);
        }
        // From the host's memory: a device takes blocks as bytes.
        let on_host = vb.clone().set_device(Device::Cpu);
        let shape = &q8_0_shape(outputs, inputs)[..];
        let bytes = on_host.get_with_hints_dtype(shape, BLOCKS, Default::default(), DType::U8)?;
        let bytes = bytes.contiguous()?.flatten_all()?.to_vec1::<u8>()?;
        let storage = QStorage::from_data(bytes.into(), vb.device(), GgmlDType::Q8_0)?;
        let blocks = Arc::new(QTensor::new(storage, (outputs, inputs))?);
        Ok(Some(Self::Blocks { blocks, dtype: vb.dtype() }))
    }

    /// Returns (in, out).
    fn dims(&self) -> Result<(usize, usize)> {
        match self {
            Self::Plain(weight) => weight.dims2(),
            Self::Blocks { blocks, .. } => blocks.shape().dims2().map(|(outputs, inputs)| (inputs, outputs)),
        }
    }

    fn dtype(&self) -> DType {
        match self {
            Self::Plain(weight) => weight.dtype(),
            Self::Blocks { dtype, .. } => *dtype,
        }
    }

    /// Returns (in, out) in the type of the network.
    fn expanded(&self) -> Result<Tensor> {
        match self {
            Self::Plain(weight) => Ok(weight.clone()),
            Self::Blocks { blocks, dtype } => {
                let device = blocks.device();
                // Through f16, whose precision is above that of a block: half the memory traffic.
                let is_short = device.is_cuda() && *dtype != DType::F32;
                let weight = if is_short { blocks.dequantize_f16(&device)? } else { blocks.dequantize(&device)? };
                weight.to_dtype(*dtype)?.t()
            }
        }
    }
}

impl Linear {
    /// Loads `weight` (out, in) and `bias` (out).
    pub fn new(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = vb.get(outputs, "bias")?;
        Ok(Self { bias: Some(bias), ..Self::without_bias(vb, inputs, outputs)? })
    }

    /// Loads `weight` (out, in), without a bias.
    pub fn without_bias(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self { weight: Weight::load(&vb, inputs, outputs)?, bias: None })
    }

    /// Loads `weight` (out, in), without a bias, and keeps its layout: for networks of many tokens, and of one pass.
    pub fn as_stored(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = match Weight::blocks(&vb, inputs, outputs)? {
            Some(blocks) => blocks,
            None => Weight::Plain(vb.get((outputs, inputs), "weight")?.t()?),
        };
        Ok(Self { weight, bias: None })
    }

    /// Creates a layer from a weight (out, in) and a bias (out).
    pub fn from_tensors(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight: Weight::Plain(weight.t()?.contiguous()?), bias })
    }

    /// Returns the bias (out), for callers that fuse its addition into the next operation.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Returns the dtype that the layer computes in.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// Returns xs · Wᵀ without the bias; `xs` is (…, in) and is converted to the layer's dtype.
    pub fn product(&self, xs: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = self.weight.dims()?;
        let dims = xs.dims();
        if dims.last() != Some(&inputs) {
            bail!("a linear layer takes {inputs} channels, got the shape {dims:?}");
        }
        let flat = xs.reshape(((), inputs))?.to_dtype(self.weight.dtype())?;
        let mut shape = dims.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        flat.checked_matmul(&self.weight.expanded()?)?.reshape(shape)
    }

    /// Returns `onto` + xs · Wᵀ, without the bias; `xs` is (…, in), and no other tensor may share the storage of `onto`.
    pub fn product_onto(&self, xs: &Tensor, onto: Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Weight::Plain(weight) = &self.weight
            && cuda::takes(xs)
            && xs.dtype() == self.dtype()
        {
            return cuda::product_onto(xs, weight, onto);
        }
        onto + self.product(xs)?
    }

    /// Returns xs · Wᵀ + b; `xs` is (…, in).
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        add_bias(self.product(xs)?, self.bias())
    }
}

/// Applies the layers in order, with ReLU between them.
pub fn rectified_between(layers: &[Linear], xs: &Tensor) -> Result<Tensor> {
    let Some((last, first)) = layers.split_last() else { return Ok(xs.clone()) };
    let inner = first.iter().try_fold(xs.clone(), |xs, layer| add_bias_relu(layer.product(&xs)?, layer.bias()))?;
    last.forward(&inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::layers::{Kernels, with_kernels};

    /// A layer of 64 inputs and 48 outputs, and the same with its weight in blocks.
    fn both(dtype: DType) -> (Linear, Linear) {
        let values: Vec<f32> = (0..48 * 64).map(|i| (i as f32 * 0.7).sin() * 0.1).collect();
        let weight = Tensor::from_vec(values, (48, 64), &Device::Cpu).unwrap();
        let bias = Tensor::arange(0f32, 48.0, &Device::Cpu).unwrap();
        let blocks = QTensor::quantize(&weight, GgmlDType::Q8_0).unwrap().data().unwrap().into_owned();
        let blocks = Tensor::from_vec(blocks, &q8_0_shape(48, 64)[..], &Device::Cpu).unwrap();
        let load = |name: &str, weight: Tensor| {
            let tensors = HashMap::from([(name.to_owned(), weight), ("bias".to_owned(), bias.clone())]);
            Linear::new(VarBuilder::from_tensors(tensors, dtype, &Device::Cpu), 64, 48).unwrap()
        };
        (load("weight", weight), load(BLOCKS, blocks))
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
    }

    #[test]
    fn a_layer_in_blocks_is_a_layer_with_rounded_weights() {
        for (dtype, kernels) in
            [(DType::F32, Kernels::Own), (DType::F32, Kernels::Generic), (DType::BF16, Kernels::Own)]
        {
            with_kernels(kernels, || {
                let (plain, blocks) = both(dtype);
                assert_eq!((blocks.dtype(), plain.dtype()), (dtype, dtype));
                let xs =
                    Tensor::from_vec((0..192).map(|i| (i as f32).cos()).collect(), (1, 3, 64), &Device::Cpu).unwrap();
                let (expected, actual) = (plain.forward(&xs).unwrap(), blocks.forward(&xs).unwrap());
                assert_eq!(actual.dims(), [1, 3, 48]);
                let (expected, actual) = (values(&expected), values(&actual));
                let error = expected.iter().zip(&actual).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error > 0.0 && error < if dtype == DType::F32 { 0.01 } else { 0.3 }, "{dtype:?}: {error}");
            });
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_others() {
        let (_, blocks) = both(DType::F32);
        let xs: Vec<f32> = (0..40 * 64).map(|i| (i as f32).cos()).collect();
        let xs = Tensor::from_vec(xs, (40, 64), &Device::Cpu).unwrap();
        let together = values(&blocks.forward(&xs).unwrap());
        let alone = values(&blocks.forward(&xs.narrow(0, 0, 20).unwrap()).unwrap());
        assert_eq!(together[..20 * 48], alone);
    }
}
