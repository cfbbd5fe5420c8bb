//! The residual block of convolutional autoencoders for images.

use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

use super::{Conv2d, Geometry, GroupNorm, Names, NormConfig};

/// x + conv2(silu(norm2(conv1(silu(norm1(x)))))), with a 1x1 convolution on x where the widths differ.
#[derive(Debug, Clone)]
pub struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResBlock {
    /// Loads the tensors below `vb`. `norm` returns the configuration of a norm over a number of channels; `names` is
    /// the naming scheme of the shortcut and of wrapped layers.
    pub fn new(
        vb: &VarBuilder,
        in_channels: usize,
        out_channels: usize,
        norm: impl Fn(usize) -> NormConfig,
        names: Names,
    ) -> Result<Self> {
        let shortcut_vb = names.conv(&vb.pp(names.shortcut()));
        let needed = in_channels != out_channels;
        Ok(Self {
            norm1: GroupNorm::new(&names.norm(&vb.pp("norm1")), in_channels, norm(in_channels))?,
            conv1: Conv2d::new(&names.conv(&vb.pp("conv1")), in_channels, out_channels, Geometry::SAME_3X3)?,
            norm2: GroupNorm::new(&names.norm(&vb.pp("norm2")), out_channels, norm(out_channels))?,
            conv2: Conv2d::new(&names.conv(&vb.pp("conv2")), out_channels, out_channels, Geometry::SAME_3X3)?,
            shortcut: needed
                .then(|| Conv2d::new(&shortcut_vb, in_channels, out_channels, Geometry::POINTWISE))
                .transpose()?,
        })
    }
}

impl Module for ResBlock {
    /// Maps (batch, in, height, width) to (batch, out, height, width).
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        // Each map replaces the one before, so that three are alive at most: those of a level of full resolution are large.
        let mut inner = self.norm1.forward_silu(xs)?;
        inner = self.conv1.forward(&inner)?;
        inner = self.norm2.forward_silu(&inner)?;
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_onto(&inner, &shortcut.forward(xs)?),
            None => self.conv2.forward_onto(&inner, xs),
        }
    }
}
