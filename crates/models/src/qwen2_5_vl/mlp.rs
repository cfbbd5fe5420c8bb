//! The gated MLP, with biases in the vision encoder and without in the language model.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::layers::{
    bias::add_bias,
    kernels::{Activation, activate},
    linear::Linear,
};

/// down(silu(gate x) · up x).
#[derive(Debug, Clone)]
pub(super) struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    pub(super) down_proj: Linear,
}

impl Mlp {
    /// `linear` creates each of the three layers from its name, inputs and outputs, with or without a bias.
    pub(super) fn new(
        vb: VarBuilder,
        (width, inner): (usize, usize),
        linear: impl Fn(VarBuilder, usize, usize) -> Result<Linear>,
    ) -> Result<Self> {
        Ok(Self {
            gate_proj: linear(vb.pp("gate_proj"), width, inner)?,
            up_proj: linear(vb.pp("up_proj"), width, inner)?,
            down_proj: linear(vb.pp("down_proj"), inner, width)?,
        })
    }

    /// Returns the output without the last bias, which the residual addition adds.
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let gate = activate(self.gate_proj.product(xs)?, self.gate_proj.bias(), Activation::Silu)?;
        let up = add_bias(self.up_proj.product(xs)?, self.up_proj.bias())?;
        self.down_proj.product(&(gate * up)?)
    }
}
