//! Self-attention over all pixels of a map.

use candle_core::{DType, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder, ops::softmax_last_dim};

use super::{GroupNorm, Names, NormConfig};
use crate::layers::CheckedMatmul;

/// Maximum number of queries times keys at a time: 16 MiB of scores in f32.
const SCORES: usize = 4 << 20;

/// x + out(attention(norm(x))): one head with the map's width; every pixel is a token.
#[derive(Debug, Clone)]
pub struct Attention {
    norm: GroupNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
}

impl Attention {
    /// Loads the tensors below `vb`. diffusers has two sets of names for the linear layers; FLUX's own file stores
    /// them as 1x1 convolutions, (channels, channels, 1, 1).
    pub fn new(vb: &VarBuilder, channels: usize, norm: NormConfig, names: Names) -> Result<Self> {
        let [norm_name, q, k, v, out] = match names {
            Names::Diffusers if vb.contains_tensor("query.weight") => {
                ["group_norm", "query", "key", "value", "proj_attn"]
            }
            Names::Diffusers => ["group_norm", "to_q", "to_k", "to_v", "to_out.0"],
            Names::Levels | Names::WrappedLevels => ["norm", "q", "k", "v", "proj_out"],
        };
        let linear = |name: &str| {
            let vb = names.conv(&vb.pp(name));
            let weight = if names == Names::Diffusers {
                vb.get((channels, channels), "weight")?
            } else {
                vb.get((channels, channels, 1, 1), "weight")?.reshape((channels, channels))?
            };
            Ok::<_, candle_core::Error>(Linear::new(weight, Some(vb.get(channels, "bias")?)))
        };
        Ok(Self {
            norm: GroupNorm::new(&names.norm(&vb.pp(norm_name)), channels, norm)?,
            q: linear(q)?,
            k: linear(k)?,
            v: linear(v)?,
            out: linear(out)?,
        })
    }
}

impl Module for Attention {
    /// Takes and returns (batch, channels, height, width).
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = xs.dims4()?;
        let tokens = self.norm.forward(xs)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?; // (batch, pixels, channels)
        let q = (self.q.forward(&tokens)? * (channels as f64).powf(-0.5))?;
        let k = self.k.forward(&tokens)?.to_dtype(DType::F32)?.t()?; // (batch, channels, pixels)
        let v = self.v.forward(&tokens)?;
        let pixels = height * width;
        let band = (SCORES / (batch * pixels).max(1)).clamp(1, pixels.max(1));
        let mut attended = Vec::new();
        for first in (0..pixels).step_by(band) {
            let q = q.narrow(1, first, band.min(pixels - first))?;
            // The scores and their softmax stay in float32.
            let scores = q.to_dtype(DType::F32)?.checked_matmul(&k)?;
            attended.push(softmax_last_dim(&scores)?.to_dtype(v.dtype())?.checked_matmul(&v)?);
        }
        let ys = self.out.forward(&Tensor::cat(&attended, 1)?)?; // (batch, pixels, channels)
        let tokens = xs.permute((0, 2, 3, 1))?.contiguous()?.reshape((batch, pixels, channels))?;
        (ys + tokens)?.reshape((batch, height, width, channels))?.permute((0, 3, 1, 2))
    }
}
