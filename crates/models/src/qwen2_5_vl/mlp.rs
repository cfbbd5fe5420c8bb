//! The gated feed-forward, which the tower has with biases and the language model without.

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
    /// `linear` makes each of the three, by its name, inputs and outputs: with a bias or without.
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

    /// All but the last bias, which is for whoever adds the result to something.
    pub(super) fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let gate = activate(self.gate_proj.product(xs)?, self.gate_proj.bias(), Activation::Silu)?;
        let up = add_bias(self.up_proj.product(xs)?, self.up_proj.bias())?;
        self.down_proj.product(&(gate * up)?)
    }
}
