//! Norm layers with learned parameters.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::VarBuilder;

use super::{kernel_choice::has_own_kernels, kernels};

/// Layer norm with weight and bias, computed in float32.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Loads `weight` and `bias`, each (channels).
    pub fn new(vb: VarBuilder, channels: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: vb.get(channels, "weight")?, bias: vb.get(channels, "bias")?, eps })
    }

    /// `xs` is (…, channels); the result is float32.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        self.forward_as(xs, DType::F32)
    }

    /// As [`LayerNorm::forward`], and rounds the result to `dtype`.
    pub fn forward_as(&self, xs: &Tensor, dtype: DType) -> Result<Tensor> {
        kernels::affine_norm(xs, &self.weight, &self.bias, self.eps, dtype)
    }
}

/// x / sqrt(mean(x²) + eps) · weight, computed in float32.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Loads `weight` (channels).
    pub fn new(vb: VarBuilder, channels: usize, eps: f64) -> Result<Self> {
        Ok(Self { weight: vb.get(channels, "weight")?, eps })
    }

    /// `xs` is (…, channels); the result is float32.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = xs.to_dtype(DType::F32)?;
        if !has_own_kernels(&xs) {
            return candle_nn::ops::rms_norm(&xs.contiguous()?, &self.weight.to_dtype(DType::F32)?, self.eps as f32);
        }
        let mean_square = xs.sqr()?.mean_keepdim(D::Minus1)?;
        xs.broadcast_div(&(mean_square + self.eps)?.sqrt()?)?.broadcast_mul(&self.weight.to_dtype(DType::F32)?)
    }
}
