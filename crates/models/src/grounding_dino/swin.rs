//! Swin transformer backbone: takes a picture, returns feature maps of several resolutions.
//!
//! Liu et al., "Swin Transformer" (2021); compared with `modeling_swin.py` of transformers 5.23, in the variant for
//! detectors: maps smaller than a window are still split into windows, and feature maps are taken before a stage's
//! downsampling.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::config::SwinConfig;
use crate::layers::{
    kernels::{Activation, activate, residual},
    linear::Linear,
    norm::LayerNorm,
    window_attention::{OffsetBias, WindowGrid, window_attention},
};

/// Epsilon of the norms outside the blocks, which have no configuration field.
const EPS: f64 = 1e-5;

/// A batch of feature maps, channels last.
#[derive(Debug, Clone)]
pub(super) struct Map {
    /// (batch · height · width, channels)
    pub(super) cells: Tensor,
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
}

/// Self-attention within windows.
#[derive(Debug, Clone)]
struct Attention {
    /// Rows: all queries, all keys, all values.
    qkv: Linear,
    offsets: OffsetBias,
    output: Linear,
}

impl Attention {
    fn new(vb: VarBuilder, channels: usize, heads: usize, config: &SwinConfig) -> Result<Self> {
        let own = vb.pp("self");
        let part = |name: &str| own.get((channels, channels), &format!("{name}.weight"));
        let weight = Tensor::cat(&[part("query")?, part("key")?, part("value")?], 0)?;
        let bias = |name: &str| own.get(channels, &format!("{name}.bias"));
        let bias = match config.qkv_bias {
            true => Some(Tensor::cat(&[bias("query")?, bias("key")?, bias("value")?], 0)?),
            false => None,
        };
        let side = config.window_size;
        let offsets = own.get(((2 * side - 1).pow(2), heads), "relative_position_bias_table")?;
        Ok(Self {
            qkv: Linear::from_tensors(&weight, bias)?,
            offsets: OffsetBias::new(&offsets, side)?,
            output: Linear::new(vb.pp("output.dense"), channels, channels)?,
        })
    }

    /// Returns the branch's output without the bias of `output`, which the residual addition adds.
    fn forward(&self, xs: &Tensor, grid: WindowGrid) -> Result<Tensor> {
        let mixed = window_attention(&self.qkv.product(xs)?, self.qkv.bias(), &self.offsets, grid)?;
        self.output.product(&mixed)
    }
}

/// A pre-norm transformer block: attention, then MLP, each added to the residual stream.
#[derive(Debug, Clone)]
struct Block {
    layernorm_before: LayerNorm,
    attention: Attention,
    layernorm_after: LayerNorm,
    intermediate: Linear,
    output: Linear,
    side: usize,
    shift: usize,
}

impl Block {
    fn new(vb: VarBuilder, stage: usize, index: usize, config: &SwinConfig) -> Result<Self> {
        let (channels, heads) = (config.channels(stage), config.num_heads[stage]);
        let inner = (config.mlp_ratio * channels as f64) as usize;
        Ok(Self {
            layernorm_before: LayerNorm::new(vb.pp("layernorm_before"), channels, config.layer_norm_eps)?,
            attention: Attention::new(vb.pp("attention"), channels, heads, config)?,
            layernorm_after: LayerNorm::new(vb.pp("layernorm_after"), channels, config.layer_norm_eps)?,
            intermediate: Linear::new(vb.pp("intermediate.dense"), channels, inner)?,
            output: Linear::new(vb.pp("output.dense"), inner, channels)?,
            side: config.window_size,
            shift: if index.is_multiple_of(2) { 0 } else { config.window_size / 2 },
        })
    }

    fn forward(&self, map: Map) -> Result<Map> {
        let Map { cells: xs, batch, height, width } = map;
        let grid = WindowGrid { batch, height, width, side: self.side, shift: self.shift };
        let ys = self.attention.forward(&self.layernorm_before.forward(&xs)?, grid)?;
        let xs = residual(&xs, &ys, self.attention.output.bias(), None)?;
        let inner = self.intermediate.product(&self.layernorm_after.forward(&xs)?)?;
        let inner = activate(inner, self.intermediate.bias(), Activation::GeluErf)?;
        let cells = residual(&xs, &self.output.product(&inner)?, self.output.bias(), None)?;
        Ok(Map { cells, batch, height, width })
    }
}

/// Patch merging: joins four neighbouring cells to one with twice the channels.
#[derive(Debug, Clone)]
struct Downsample {
    norm: LayerNorm,
    reduction: Linear,
}

impl Downsample {
    fn new(vb: VarBuilder, channels: usize) -> Result<Self> {
        Ok(Self {
            norm: LayerNorm::new(vb.pp("norm"), 4 * channels, EPS)?,
            reduction: Linear::without_bias(vb.pp("reduction"), 4 * channels, 2 * channels)?,
        })
    }

    /// An odd last row or column is padded with zeros. The four cells are concatenated column by column.
    fn forward(&self, map: &Map) -> Result<Map> {
        let (_, channels) = map.cells.dims2()?;
        let (height, width) = (map.height.div_ceil(2), map.width.div_ceil(2));
        let xs = map.cells.reshape((map.batch, map.height, map.width, channels))?;
        let xs = xs.pad_with_zeros(1, 0, map.height % 2)?.pad_with_zeros(2, 0, map.width % 2)?;
        // (batch, height, width, column in four, row in four, channels)
        let xs = xs.reshape(&[map.batch, height, 2, width, 2, channels])?.permute(vec![0, 1, 3, 4, 2, 5])?;
        let cells = xs.contiguous()?.reshape((map.batch * height * width, 4 * channels))?;
        let cells = self.reduction.product(&self.norm.forward(&cells)?)?;
        Ok(Map { cells, batch: map.batch, height, width })
    }
}

#[derive(Debug, Clone)]
struct Stage {
    blocks: Vec<Block>,
    downsample: Option<Downsample>,
    /// The norm of the map that is returned for this stage, if one is.
    norm: Option<LayerNorm>,
}

/// The complete Swin transformer.
#[derive(Debug, Clone)]
pub(super) struct Swin {
    /// The patch convolution as a linear layer.
    projection: Linear,
    norm: LayerNorm,
    stages: Vec<Stage>,
    config: SwinConfig,
}

impl Swin {
    pub(super) fn new(vb: VarBuilder, config: &SwinConfig) -> Result<Self> {
        let (channels, side) = (config.embed_dim, config.patch_size);
        let embeddings = vb.pp("embeddings");
        let projection = embeddings.pp("patch_embeddings.projection");
        let weight = projection.get((channels, config.num_channels, side, side), "weight")?;
        let stages = (0..config.depths.len()).map(|stage| Self::stage(&vb, stage, config));
        Ok(Self {
            projection: Linear::from_tensors(&weight.flatten_from(1)?, Some(projection.get(channels, "bias")?))?,
            norm: LayerNorm::new(embeddings.pp("norm"), channels, EPS)?,
            stages: stages.collect::<Result<_>>()?,
            config: config.clone(),
        })
    }

    fn stage(vb: &VarBuilder, stage: usize, config: &SwinConfig) -> Result<Stage> {
        let own = vb.pp("encoder.layers").pp(stage);
        let blocks = own.pp("blocks");
        let is_last = stage + 1 == config.depths.len();
        let channels = config.channels(stage);
        let norm = || LayerNorm::new(vb.pp("hidden_states_norms").pp(format!("stage{}", stage + 1)), channels, EPS);
        Ok(Stage {
            blocks: (0..config.depths[stage])
                .map(|index| Block::new(blocks.pp(index), stage, index, config))
                .collect::<Result<_>>()?,
            downsample: (!is_last).then(|| Downsample::new(own.pp("downsample"), channels)).transpose()?,
            norm: config.out_indices.contains(&(stage + 1)).then(norm).transpose()?,
        })
    }

    /// Returns the numbers of channels of the returned maps.
    pub(super) fn out_channels(config: &SwinConfig) -> Vec<usize> {
        config.out_indices.iter().map(|stage| config.channels(stage - 1)).collect()
    }

    /// `pixels` is (batch, channels, height, width); sides that are no multiple of the patch size are padded with
    /// zeros.
    pub(super) fn forward(&self, pixels: &Tensor) -> Result<Vec<Map>> {
        let patches = self.patches(pixels)?;
        let cells = self.norm.forward(&self.projection.forward(&patches.cells)?)?;
        let mut map = Map { cells, ..patches };
        let mut outputs = Vec::new();
        for stage in &self.stages {
            for block in &stage.blocks {
                map = block.forward(map)?;
            }
            if let Some(norm) = &stage.norm {
                outputs.push(Map { cells: norm.forward(&map.cells)?, ..map });
            }
            if let Some(downsample) = &stage.downsample {
                map = downsample.forward(&map)?;
            }
        }
        Ok(outputs)
    }

    fn patches(&self, pixels: &Tensor) -> Result<Map> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let side = self.config.patch_size;
        if channels != self.config.num_channels || height == 0 || width == 0 {
            bail!("the picture has {channels} channels and {height} x {width} pixels");
        }
        let (rows, columns) = (height.div_ceil(side), width.div_ceil(side));
        let pixels = pixels.pad_with_zeros(2, 0, rows * side - height)?.pad_with_zeros(3, 0, columns * side - width)?;
        // (batch, rows, columns, channels, side, side)
        let patches = pixels.reshape(&[batch, channels, rows, side, columns, side])?.permute(vec![0, 2, 4, 1, 3, 5])?;
        let cells = patches.contiguous()?.reshape((batch * rows * columns, channels * side * side))?;
        Ok(Map { cells, batch, height: rows, width: columns })
    }
}
