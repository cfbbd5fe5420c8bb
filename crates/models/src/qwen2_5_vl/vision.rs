//! The vision encoder: takes patches, returns one vector for each square of merged patches.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{
    config::QwenVisionConfig,
    mlp::Mlp,
    positions::{Grid, WindowOrder, patch_places, vision_rotation},
};
use crate::layers::{
    attention::{HeadOptions, KeyValue, Rotation, attend, split_heads},
    kernels::{Activation, activate, residual},
    linear::Linear,
    norm::RmsNorm,
};

/// Epsilon of the encoder's norms, which have no configuration field.
const EPS: f64 = 1e-6;

/// Reorders rows (heads · head_dim, inputs): the reference rotates pairs (i, i + head_dim / 2), our kernel rotates
/// neighbouring pairs. Queries and keys in the same order have the same products.
pub(super) fn interleave_halves(rows: &Tensor, heads: usize) -> Result<Tensor> {
    let (outputs, rest) = (rows.dim(0)?, rows.dims()[1..].iter().product::<usize>());
    let half = outputs / heads / 2;
    rows.reshape((heads, 2, half, rest))?.transpose(1, 2)?.contiguous()?.reshape(rows.shape())
}

#[derive(Debug, Clone)]
struct Attention {
    /// Rows: all queries, all keys, all values; channel halves of queries and keys are interleaved.
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    fn new(vb: VarBuilder, config: &QwenVisionConfig) -> Result<Self> {
        let (width, heads) = (config.hidden_size, config.num_heads);
        let reordered = |all: Tensor| {
            let part = |kind: usize| all.narrow(0, kind * width, width)?.contiguous();
            let (queries, keys) = (interleave_halves(&part(0)?, heads)?, interleave_halves(&part(1)?, heads)?);
            Tensor::cat(&[queries, keys, part(2)?], 0)
        };
        let qkv = vb.pp("qkv");
        let weight = reordered(qkv.get((3 * width, width), "weight")?)?;
        let bias = reordered(qkv.get(3 * width, "bias")?)?;
        Ok(Self {
            qkv: Linear::from_tensors(&weight, Some(bias))?,
            proj: Linear::new(vb.pp("proj"), width, width)?,
            heads,
        })
    }

    /// Returns the branch's output for the stream (patches, width), without the bias of `proj`. Patches between two
    /// consecutive `ends` attend to each other.
    fn forward(&self, xs: &Tensor, rotation: &Rotation, ends: &[usize]) -> Result<Tensor> {
        let width = xs.dim(1)?;
        let qkv = self.qkv.product(xs)?;
        let part = |kind: usize, rotation: Option<&Rotation>| {
            let bias = self.qkv.bias().map(|bias| bias.narrow(0, kind * width, width)).transpose()?;
            let options = HeadOptions { bias: bias.as_ref(), rotation, ..HeadOptions::default() };
            // (heads, patches, head_dim)
            split_heads(&qkv, kind * width, (1, self.heads, width / self.heads), options)?.squeeze(0)
        };
        let (q, k, v) = (part(0, Some(rotation))?, part(1, Some(rotation))?, part(2, None)?);
        let scale = 1.0 / ((width / self.heads) as f64).sqrt();
        let window = |pair: &[usize]| {
            let cut = |xs: &Tensor| xs.narrow(1, pair[0], pair[1] - pair[0]);
            attend(&cut(&q)?, &[&KeyValue { keys: cut(&k)?, values: cut(&v)? }], scale)
        };
        let windows = ends.windows(2).map(window).collect::<Result<Vec<_>>>()?;
        self.proj.product(&Tensor::cat(&windows, 0)?)
    }
}

#[derive(Debug, Clone)]
struct Block {
    norm1: RmsNorm,
    attn: Attention,
    norm2: RmsNorm,
    mlp: Mlp,
    sees_all: bool,
}

impl Block {
    fn new(vb: VarBuilder, index: usize, config: &QwenVisionConfig) -> Result<Self> {
        Ok(Self {
            norm1: RmsNorm::new(vb.pp("norm1"), config.hidden_size, EPS)?,
            attn: Attention::new(vb.pp("attn"), config)?,
            norm2: RmsNorm::new(vb.pp("norm2"), config.hidden_size, EPS)?,
            mlp: Mlp::new(vb.pp("mlp"), (config.hidden_size, config.intermediate_size), Linear::new)?,
            sees_all: config.fullatt_block_indexes.contains(&index),
        })
    }

    fn forward(&self, xs: &Tensor, rotation: &Rotation, order: &WindowOrder) -> Result<Tensor> {
        let ends = if self.sees_all { &order.frame_ends } else { &order.window_ends };
        let ys = self.attn.forward(&self.norm1.forward(xs)?, rotation, ends)?;
        let xs = residual(xs, &ys, self.attn.proj.bias(), None)?;
        let ys = self.mlp.forward(&self.norm2.forward(&xs)?)?;
        residual(&xs, &ys, self.mlp.down_proj.bias(), None)
    }
}

/// Merges each square of patches to one vector of the language model's width.
#[derive(Debug, Clone)]
struct PatchMerger {
    ln_q: RmsNorm,
    first: Linear,
    second: Linear,
}

impl PatchMerger {
    fn new(vb: VarBuilder, config: &QwenVisionConfig) -> Result<Self> {
        let merged = config.hidden_size * config.spatial_merge_size.pow(2);
        Ok(Self {
            ln_q: RmsNorm::new(vb.pp("ln_q"), config.hidden_size, EPS)?,
            first: Linear::new(vb.pp("mlp.0"), merged, merged)?,
            second: Linear::new(vb.pp("mlp.2"), merged, config.out_hidden_size)?,
        })
    }

    fn forward(&self, xs: &Tensor, merge: usize) -> Result<Tensor> {
        let (patches, width) = xs.dims2()?;
        let squares = self.ln_q.forward(xs)?.reshape((patches / (merge * merge), width * merge * merge))?;
        let inner = activate(self.first.product(&squares)?, self.first.bias(), Activation::GeluErf)?;
        self.second.forward(&inner)?.to_dtype(DType::F32)
    }
}

/// The vision encoder's output.
#[derive(Debug, Clone)]
pub struct VisionOutput {
    /// One row per merged cell, picture by picture, row-major: (tokens, out_hidden_size).
    pub embeds: Tensor,
    /// The stream after the last block, in window order: (patches, hidden_size).
    pub last_hidden_state: Tensor,
}

/// The complete vision encoder.
#[derive(Debug, Clone)]
pub struct VisionTower {
    /// The patch convolution as a linear layer.
    patch_embed: Linear,
    blocks: Vec<Block>,
    merger: PatchMerger,
    config: QwenVisionConfig,
}

impl VisionTower {
    pub(super) fn new(vb: VarBuilder, config: &QwenVisionConfig) -> Result<Self> {
        let (side, blocks) = (config.patch_size, vb.pp("blocks"));
        let shape = (config.hidden_size, config.in_channels, config.temporal_patch_size, side, side);
        let patch_embed = vb.get(shape, "patch_embed.proj.weight")?.flatten_from(1)?;
        Ok(Self {
            patch_embed: Linear::from_tensors(&patch_embed, None)?,
            blocks: (0..config.depth).map(|n| Block::new(blocks.pp(n), n, config)).collect::<Result<_>>()?,
            merger: PatchMerger::new(vb.pp("merger"), config)?,
            config: config.clone(),
        })
    }

    /// Encodes `pixel_values` (patches of all pictures, values per patch).
    pub fn forward(&self, pixel_values: &Tensor, grids: &[Grid]) -> Result<VisionOutput> {
        let (patches, merge) = (pixel_values.dim(0)?, self.config.spatial_merge_size);
        let whole = |grid: &Grid| grid.rows.is_multiple_of(merge) && grid.columns.is_multiple_of(merge);
        if patches == 0 || grids.iter().map(Grid::patches).sum::<usize>() != patches || !grids.iter().all(whole) {
            bail!("{patches} patches are not those of pictures of {grids:?}");
        }
        let order = WindowOrder::new(grids, &self.config);
        let device = pixel_values.device();
        let index = Tensor::from_slice(&order.index, order.index.len(), device)?;
        let xs = self.patch_embed.product(pixel_values)?.to_dtype(DType::F32)?;
        let width = self.config.hidden_size;
        // Reorders whole squares of merged patches.
        let xs = xs.reshape((patches / (merge * merge), merge * merge * width))?.index_select(&index, 0)?;
        let mut xs = xs.reshape((patches, width))?;
        let rotation = self.rotation(grids, &order, device)?;
        for block in &self.blocks {
            xs = block.forward(&xs, &rotation, &order)?;
        }
        let inverse = Tensor::from_vec(order.inverse(), order.index.len(), device)?;
        let embeds = self.merger.forward(&xs, merge)?.index_select(&inverse, 0)?;
        Ok(VisionOutput { embeds, last_hidden_state: xs })
    }

    fn rotation(&self, grids: &[Grid], order: &WindowOrder, device: &candle_core::Device) -> Result<Rotation> {
        let square = self.config.spatial_merge_size.pow(2);
        let places = patch_places(grids, self.config.spatial_merge_size);
        let ordered = order.index.iter().flat_map(|cell| &places[*cell as usize * square..][..square]);
        let ordered: Vec<[u32; 2]> = ordered.copied().collect();
        vision_rotation(&ordered, self.config.hidden_size / self.config.num_heads, device)
    }
}
