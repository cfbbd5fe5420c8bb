//! Linear layers whose weight lies the way the CPU reads it.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::bias::add_bias_relu;

/// xs · Wᵀ (+ b). A published weight is (out, in); it is kept as (in, out), which spares the product a repacking of
/// the whole weight at every call. That matters for the few tokens of the first scales.
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

    /// Loads `weight` (out, in) alone.
    pub fn without_bias(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        Ok(Self { weight: vb.get((outputs, inputs), "weight")?.t()?.contiguous()?, bias: None })
    }

    /// From a weight (out, in) and a bias that are at hand.
    pub fn from_tensors(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        Ok(Self { weight: weight.t()?.contiguous()?, bias })
    }

    /// The bias (out), for those who fuse it into what follows.
    pub fn bias(&self) -> Option<&Tensor> {
        self.bias.as_ref()
    }

    /// The weight's dtype.
    pub fn dtype(&self) -> DType {
        self.weight.dtype()
    }

    /// xs · Wᵀ without the bias; `xs` is (…, in), converted to the weight's dtype.
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
        flat.matmul(&self.weight)?.reshape(shape)
    }

    /// xs · Wᵀ + b; `xs` is (…, in).
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let product = self.product(xs)?;
        self.bias.as_ref().map_or(Ok(product.clone()), |bias| product.broadcast_add(bias))
    }
}

/// The layers one after the other, with a rectifier between each and the next.
pub fn rectified_between(layers: &[Linear], xs: &Tensor) -> Result<Tensor> {
    let Some((last, first)) = layers.split_last() else { return Ok(xs.clone()) };
    let inner = first.iter().try_fold(xs.clone(), |xs, layer| add_bias_relu(layer.product(&xs)?, layer.bias()))?;
    last.forward(&inner)
}
