//! The convolutional encoder and decoder shared by latent-diffusion autoencoders and Infinity's tokenizer: levels of
//! residual blocks with halved resolution at each level, and two more blocks at the lowest resolution.
//!
//! The networks differ in widths, norms, tensor names, and in whether there is attention between the two middle
//! blocks.

use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{Attention, Conv2d, Geometry, GroupNorm, Names, NormConfig, ResBlock};

/// The configuration of an encoder or decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct PyramidConfig {
    /// Number of channels of pictures.
    pub image_channels: usize,
    /// Number of channels of the latent: the encoder's output, the decoder's input.
    pub latent_channels: usize,
    /// Width of each level, full resolution first; not empty.
    pub widths: Vec<usize>,
    /// Number of channels before the first level of the encoder.
    pub stem: usize,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub res_blocks: usize,
    /// Whether there is attention between the middle blocks.
    pub attention: bool,
    /// Groups of the group norms.
    pub norm_groups: usize,
    /// Groups of a norm over a width that `norm_groups` does not divide.
    pub odd_norm_groups: usize,
    /// Epsilon of all norms.
    pub norm_eps: f64,
}

impl PyramidConfig {
    fn norm(&self, channels: usize) -> NormConfig {
        let divides = channels.is_multiple_of(self.norm_groups);
        let groups = if divides { self.norm_groups } else { self.odd_norm_groups };
        NormConfig { groups, eps: self.norm_eps }
    }

    fn lowest_width(&self) -> Result<usize> {
        match self.widths.last() {
            Some(&width) => Ok(width),
            None => bail!("an autoencoder needs at least one level"),
        }
    }
}

/// A point in the network whose output can be observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// After a level including its resampling, counted in execution order.
    Level(usize),
    /// After the middle blocks.
    Middle,
}

/// The encoder, from picture to latent.
#[derive(Debug, Clone)]
pub struct PyramidEncoder {
    conv_in: Conv2d,
    levels: Vec<DownLevel>,
    mid: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl PyramidEncoder {
    /// Loads the tensors below `vb`, usually at the prefix `encoder`.
    pub fn new(vb: &VarBuilder, config: &PyramidConfig, names: Names) -> Result<Self> {
        let conv_in = names.conv(&vb.pp("conv_in"));
        let conv_in = Conv2d::new(&conv_in, config.image_channels, config.stem, Geometry::SAME_3X3)?;
        let mut width = config.stem;
        let mut levels = Vec::new();
        for (index, &target) in config.widths.iter().enumerate() {
            let is_last = index + 1 == config.widths.len();
            let vb = vb.pp(names.level("down", index));
            let blocks = level_blocks(&vb, width, target, config.res_blocks, config, names)?;
            let halving = names.conv(&vb.pp(names.resampling("down")));
            let downsample =
                (!is_last).then(|| Conv2d::new(&halving, target, target, Geometry::HALVING_3X3)).transpose()?;
            levels.push(DownLevel { blocks, downsample });
            width = target;
        }
        let mid = Middle::new(vb, width, config, names)?;
        let norm_out = GroupNorm::new(&names.norm(&vb.pp(names.norm_out())), width, config.norm(width))?;
        let conv_out = names.conv(&vb.pp("conv_out"));
        let conv_out = Conv2d::new(&conv_out, width, config.latent_channels, Geometry::SAME_3X3)?;
        Ok(Self { conv_in, levels, mid, norm_out, conv_out })
    }

    /// Maps (batch, 3, height, width) to (batch, latent, height', width'); each level but the last halves both sides.
    /// `tap` is called with the map after every stage.
    pub fn forward_with_tap(&self, xs: &Tensor, mut tap: impl FnMut(Stage, &Tensor) -> Result<()>) -> Result<Tensor> {
        let mut xs = self.conv_in.forward(xs)?;
        for (index, level) in self.levels.iter().enumerate() {
            xs = level.forward(xs)?;
            tap(Stage::Level(index), &xs)?;
        }
        xs = self.mid.forward(xs)?;
        tap(Stage::Middle, &xs)?;
        xs = self.norm_out.forward_silu(&xs)?;
        self.conv_out.forward(&xs)?.contiguous()
    }
}

/// The decoder, from latent to picture.
#[derive(Debug, Clone)]
pub struct PyramidDecoder {
    conv_in: Conv2d,
    mid: Middle,
    /// In execution order: the lowest resolution first.
    levels: Vec<UpLevel>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl PyramidDecoder {
    /// Loads the tensors below `vb`, usually at the prefix `decoder`.
    pub fn new(vb: &VarBuilder, config: &PyramidConfig, names: Names) -> Result<Self> {
        let mut width = config.lowest_width()?;
        let conv_in = names.conv(&vb.pp("conv_in"));
        let conv_in = Conv2d::new(&conv_in, config.latent_channels, width, Geometry::SAME_3X3)?;
        let mid = Middle::new(vb, width, config, names)?;
        let mut levels = Vec::new();
        for (step, (index, &target)) in config.widths.iter().enumerate().rev().enumerate() {
            let vb = vb.pp(names.level("up", if names.is_diffusers() { step } else { index }));
            let blocks = level_blocks(&vb, width, target, config.res_blocks + 1, config, names)?;
            let doubling = names.conv(&vb.pp(names.resampling("up")));
            let upsample =
                (index > 0).then(|| Conv2d::new(&doubling, target, target, Geometry::SAME_3X3)).transpose()?;
            levels.push(UpLevel { blocks, upsample });
            width = target;
        }
        // In float32: rounded to bf16, a value near 1 would be half a grey level off.
        let vb = vb.clone().to_dtype(DType::F32);
        let norm_out = GroupNorm::new(&names.norm(&vb.pp(names.norm_out())), width, config.norm(width))?;
        let conv_out = names.conv(&vb.pp("conv_out"));
        let conv_out = Conv2d::new(&conv_out, width, config.image_channels, Geometry::SAME_3X3)?;
        Ok(Self { conv_in, mid, levels, norm_out, conv_out })
    }

    /// Maps (batch, latent, height, width) to (batch, 3, height', width') in float32; each level but the last doubles both
    /// sides.
    /// `tap` is called with the map after every stage.
    pub fn forward_with_tap(&self, xs: &Tensor, mut tap: impl FnMut(Stage, &Tensor) -> Result<()>) -> Result<Tensor> {
        let mut xs = self.mid.forward(self.conv_in.forward(xs)?)?;
        tap(Stage::Middle, &xs)?;
        for (index, level) in self.levels.iter().enumerate() {
            xs = level.forward(xs)?;
            tap(Stage::Level(index), &xs)?;
        }
        xs = self.norm_out.forward_silu(&xs)?;
        self.conv_out.forward(&xs)?.contiguous()
    }
}

/// Creates a level's residual blocks, the first of which changes the width.
fn level_blocks(
    vb: &VarBuilder,
    mut width: usize,
    target: usize,
    count: usize,
    config: &PyramidConfig,
    names: Names,
) -> Result<Vec<ResBlock>> {
    let mut blocks = Vec::with_capacity(count);
    for index in 0..count {
        let vb = vb.pp(names.block(index));
        // The second norm has the target's width, so the number of groups is computed per norm.
        blocks.push(ResBlock::new(&vb, width, target, |channels| config.norm(channels), names)?);
        width = target;
    }
    Ok(blocks)
}

// A level takes its map by value, so that the map is freed as soon as the first block is done.

#[derive(Debug, Clone)]
struct DownLevel {
    blocks: Vec<ResBlock>,
    downsample: Option<Conv2d>,
}

impl DownLevel {
    fn forward(&self, mut xs: Tensor) -> Result<Tensor> {
        for block in &self.blocks {
            xs = block.forward(&xs)?;
        }
        match &self.downsample {
            Some(downsample) => downsample.forward(&xs),
            None => Ok(xs),
        }
    }
}

#[derive(Debug, Clone)]
struct UpLevel {
    blocks: Vec<ResBlock>,
    upsample: Option<Conv2d>,
}

impl UpLevel {
    fn forward(&self, mut xs: Tensor) -> Result<Tensor> {
        for block in &self.blocks {
            xs = block.forward(&xs)?;
        }
        match &self.upsample {
            Some(upsample) => upsample.forward_doubled(&xs),
            None => Ok(xs),
        }
    }
}

/// Two residual blocks, with attention between them in some networks.
#[derive(Debug, Clone)]
struct Middle {
    block_1: ResBlock,
    attention: Option<Attention>,
    block_2: ResBlock,
}

impl Middle {
    fn new(vb: &VarBuilder, width: usize, config: &PyramidConfig, names: Names) -> Result<Self> {
        let norm = |channels| config.norm(channels);
        let block = |index| ResBlock::new(&vb.pp(names.middle_block(index)), width, width, norm, names);
        let attention = config
            .attention
            .then(|| Attention::new(&vb.pp(names.middle_attention()), width, config.norm(width), names))
            .transpose()?;
        Ok(Self { block_1: block(0)?, attention, block_2: block(1)? })
    }

    fn forward(&self, mut xs: Tensor) -> Result<Tensor> {
        xs = self.block_1.forward(&xs)?;
        if let Some(attention) = &self.attention {
            xs = attention.forward(&xs)?;
        }
        self.block_2.forward(&xs)
    }
}
