//! Linear layers with a weight layout that is fast on the CPU.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

#[cfg(feature = "cuda")]
use super::cuda;
use super::{
    bias::{add_bias, add_bias_relu},
    checked_matmul::CheckedMatmul,
};

/// xs · Wᵀ (+ b). A published weight is (out, in). It is stored as (in, out), which saves the matrix product from
/// repacking the weight at every call; this matters for the few tokens of the first scales.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Loads `weight` (out, in) and `bias` (out).
    pub fn new(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        let bias = vb.get(outputs, "bias")?;
        Ok(Self { bias: Some(bias), ..Self::without_bias(vb, inputs, outputs)? })
    }

    /// Loads `weight` (out, in), without a bias.
    pub fn without_bias(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self { weight: vb.get((outputs, inputs), "weight")?.t()?.contiguous()?, bias: None })
    }

    /// Creates a layer from a weight (out, in) and a bias (out).
    pub fn from_tensors(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight: weight.t()?.contiguous()?, bias })
    }

    /// Returns the bias (out), for callers that fuse its addition into the next operation.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// Returns the dtype of the weight.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// Returns xs · Wᵀ without the bias; `xs` is (…, in) and is converted to the weight's dtype.
    pub fn product(&self, xs: &Tensor) -> Result<Tensor> {
        let (inputs, outputs) = self.weight.dims2()?;
        let dims = xs.dims();
        if dims.last() != Some(&inputs) {
            bail!("a linear layer takes {inputs} channels, got the shape {dims:?}");
        }
        let flat = xs.reshape(((), inputs))?.to_dtype(self.weight.dtype())?;
        let mut shape = dims.to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        flat.checked_matmul(&self.weight)?.reshape(shape)
    }

    /// Returns `onto` + xs · Wᵀ, without the bias; `xs` is (…, in), and no other tensor may share the storage of `onto`.
    pub fn product_onto(&self, xs: &Tensor, onto: Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if cuda::takes(xs) && xs.dtype() == self.dtype() {
            return cuda::product_onto(xs, &self.weight, onto);
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
