//! SAM: takes a picture and a box or points, returns the mask of the prompted object.
//!
//! Kirillov et al., "Segment Anything" (2023); compared with `modeling_sam.py` of transformers 5.23. Reads the tensor
//! names of `facebook/sam-vit-base` and its larger variants. Mask prompts are not supported: their weights are not
//! read.
//!
//! candle-transformers' `segment_anything` is not used: it reads the original tensor names, takes points only, and
//! upscales masks by nearest neighbour, so its results differ from the reference.
//!
//! Relative positions are added to the vectors and not to the scores: the query vector is extended by its products
//! with the position tables' rows, the key vector by one-hot encodings of the key's row and column. So one attention
//! function serves windows and global attention, and no bias matrix is materialised.

mod config;
mod picture;

pub use config::{SamConfig, SamMaskDecoderConfig, SamVisionConfig};
pub use picture::{SamPicture, SamPictureError};

use candle_core::{DType, Device, Module, Result, Tensor, bail};
use candle_nn::VarBuilder;

use crate::layers::{
    CheckedMatmul,
    attention::{HeadOptions, KeyValue, attend, split_heads},
    bias::add_bias_relu,
    conv::{Conv2d, Geometry},
    kernels::{Activation, activate, residual},
    linear::{Linear, rectified_between},
    norm::LayerNorm,
};

/// Epsilon of the norms that have no configuration field.
const EPS: f64 = 1e-6;

/// Epsilon of the decoder's final norm, which has no configuration field either.
const FINAL_EPS: f64 = 1e-5;

/// Maximum number of attention scores of the image encoder in memory at a time: 16 MiB.
const BAND_SCORES: usize = 1 << 22;

/// Self-attention of the image encoder.
#[derive(Debug, Clone)]
struct VisionAttention {
    qkv: Linear,
    proj: Linear,
    /// (2 · side - 1, head_dim)
    rel_pos_h: Tensor,
    rel_pos_w: Tensor,
    heads: usize,
}

impl VisionAttention {
    fn new(vb: VarBuilder, side: usize, config: &SamVisionConfig) -> Result<Self> {
        let (width, heads) = (config.hidden_size, config.num_attention_heads);
        let table = |name: &str| vb.get((2 * side - 1, width / heads), name);
        let qkv = match config.qkv_bias {
            true => Linear::new(vb.pp("qkv"), width, 3 * width)?,
            false => Linear::without_bias(vb.pp("qkv"), width, 3 * width)?,
        };
        let proj = Linear::new(vb.pp("proj"), width, width)?;
        Ok(Self { qkv, proj, rel_pos_h: table("rel_pos_h")?, rel_pos_w: table("rel_pos_w")?, heads })
    }

    /// `xs` (windows · side · side, width); returns the same shape, without the bias of `proj`.
    fn forward(&self, xs: &Tensor, side: usize) -> Result<Tensor> {
        let (rows, width) = xs.dims2()?;
        let (tokens, head_dim) = (side * side, width / self.heads);
        let windows = rows / tokens;
        let qkv = self.qkv.product(xs)?;
        let part = |kind: usize| {
            let bias = self.qkv.bias().map(|bias| bias.narrow(0, kind * width, width)).transpose()?;
            let options = HeadOptions { bias: bias.as_ref(), ..HeadOptions::default() };
            split_heads(&qkv, kind * width, (windows, self.heads, head_dim), options)
        };
        let (q, k, v) = (part(0)?, part(1)?, part(2)?); // (windows, heads, tokens, head_dim)
        let places = one_hot_places(side, xs.device())?.broadcast_as((self.heads, tokens, 2 * side))?;
        let window = |n: usize| {
            let queries = q.get(n)?;
            let offsets = self.offsets(&queries, side)?;
            let scaled = (queries / (head_dim as f64).sqrt())?;
            let queries = Tensor::cat(&[&scaled, &offsets], 2)?;
            let keys = Tensor::cat(&[&k.get(n)?, &places], 2)?;
            attend_in_bands(&queries, &keys, &v.get(n)?)
        };
        let mixed = (0..windows).map(window).collect::<Result<Vec<_>>>()?;
        self.proj.product(&Tensor::cat(&mixed, 0)?)
    }

    /// Returns the products of every query (heads, tokens, head_dim) with the rows of both relative position tables
    /// for its row and column: (heads, tokens, 2 · side).
    fn offsets(&self, queries: &Tensor, side: usize) -> Result<Tensor> {
        let (heads, tokens, head_dim) = queries.dims3()?;
        let grid = queries.reshape((heads, side, side, head_dim))?; // (heads, row, column, head_dim)
        let by_row = grid.permute((1, 0, 2, 3))?.contiguous()?.reshape((side, heads * side, head_dim))?;
        let by_row = by_row.checked_matmul(&relative(&self.rel_pos_h, side)?)?; // (row, heads · column, side)
        let by_row = by_row.reshape((side, heads, side, side))?.permute((1, 0, 2, 3))?;
        let by_column = grid.permute((2, 0, 1, 3))?.contiguous()?.reshape((side, heads * side, head_dim))?;
        let by_column = by_column.checked_matmul(&relative(&self.rel_pos_w, side)?)?; // (column, heads · row, side)
        let by_column = by_column.reshape((side, heads, side, side))?.permute((1, 2, 0, 3))?;
        Tensor::cat(&[by_row, by_column], 3)?.reshape((heads, tokens, 2 * side))
    }
}

/// Returns softmax(q Kᵀ) V, computed in bands of queries. Queries and keys are (heads, tokens, any width), values
/// (heads, tokens, head_dim); the result is (tokens, heads · head_dim).
fn attend_in_bands(queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    let (heads, tokens, _) = queries.dims3()?;
    let width = heads * values.dim(2)?;
    let count = (BAND_SCORES / (heads * tokens).max(1)).clamp(16, tokens.max(16));
    // Joined along its last axis, a tensor lies in memory turned.
    let keys = keys.contiguous()?.t()?;
    let band = |start: usize| {
        let queries = queries.narrow(1, start, count.min(tokens - start))?.contiguous()?;
        let weights = candle_nn::ops::softmax_last_dim(&queries.checked_matmul(&keys)?)?;
        weights.checked_matmul(values)?.transpose(0, 1)?.contiguous()?.reshape(((), width))
    };
    Tensor::cat(&(0..tokens).step_by(count).map(band).collect::<Result<Vec<_>>>()?, 0)
}

/// Returns, for every query position, the table's rows for all key positions: (side, head_dim, side).
fn relative(table: &Tensor, side: usize) -> Result<Tensor> {
    let place = |query: usize| {
        // Table indices decrease while key positions increase.
        let index: Vec<u32> = (0..side).map(|key| (query + side - 1 - key) as u32).collect();
        table.index_select(&Tensor::from_vec(index, side, table.device())?, 0)?.t()?.contiguous()
    };
    Tensor::stack(&(0..side).map(place).collect::<Result<Vec<_>>>()?, 0)
}

/// Returns one-hot encodings of each token's row and column: (side · side, 2 · side).
fn one_hot_places(side: usize, device: &Device) -> Result<Tensor> {
    let mut ones = vec![0f32; side * side * 2 * side];
    for (token, row) in ones.chunks_exact_mut(2 * side).enumerate() {
        row[token / side] = 1.0;
        row[side + token % side] = 1.0;
    }
    Tensor::from_vec(ones, (side * side, 2 * side), device)
}

/// lin2(gelu(lin1 x)); ReLU instead of GELU in the decoder.
#[derive(Debug, Clone)]
struct Mlp {
    lin1: Linear,
    lin2: Linear,
}

impl Mlp {
    fn new(vb: VarBuilder, width: usize, inner: usize) -> Result<Self> {
        Ok(Self { lin1: Linear::new(vb.pp("lin1"), width, inner)?, lin2: Linear::new(vb.pp("lin2"), inner, width)? })
    }

    fn gelu(&self, xs: &Tensor) -> Result<Tensor> {
        self.lin2.product(&activate(self.lin1.product(xs)?, self.lin1.bias(), Activation::GeluErf)?)
    }

    fn relu(&self, xs: &Tensor) -> Result<Tensor> {
        self.lin2.product(&add_bias_relu(self.lin1.product(xs)?, self.lin1.bias())?)
    }
}

#[derive(Debug, Clone)]
struct VisionLayer {
    layer_norm1: LayerNorm,
    attn: VisionAttention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
    /// Side of a window; `None` for global attention.
    window: Option<usize>,
}

impl VisionLayer {
    fn new(vb: VarBuilder, index: usize, config: &SamVisionConfig) -> Result<Self> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let window = (!config.global_attn_indexes.contains(&index)).then_some(config.window_size);
        let side = window.unwrap_or(config.image_size / config.patch_size);
        let inner = config.mlp_dim.unwrap_or((width as f64 * config.mlp_ratio) as usize);
        Ok(Self {
            layer_norm1: LayerNorm::new(vb.pp("layer_norm1"), width, eps)?,
            attn: VisionAttention::new(vb.pp("attn"), side, config)?,
            layer_norm2: LayerNorm::new(vb.pp("layer_norm2"), width, eps)?,
            mlp: Mlp::new(vb.pp("mlp"), width, inner)?,
            window,
        })
    }

    /// `xs` (batch · side · side, width).
    fn forward(&self, xs: &Tensor, batch: usize, side: usize) -> Result<Tensor> {
        let width = xs.dim(1)?;
        let normed = self.layer_norm1.forward(xs)?;
        let ys = match self.window {
            None => self.attn.forward(&normed, side)?,
            Some(window) => {
                let count = side.div_ceil(window);
                let rest = count * window - side;
                let map = normed.reshape((batch, side, side, width))?;
                // Padding cells of the last windows are zeros that take part in attention, as in the reference.
                let map = map.pad_with_zeros(1, 0, rest)?.pad_with_zeros(2, 0, rest)?;
                let cut = map.reshape(&[batch, count, window, count, window, width])?.transpose(2, 3)?.contiguous()?;
                let ys = self.attn.forward(&cut.reshape(((), width))?, window)?;
                let ys = ys.reshape(&[batch, count, count, window, window, width])?.transpose(2, 3)?.contiguous()?;
                let ys = ys.reshape((batch, count * window, count * window, width))?;
                ys.narrow(1, 0, side)?.narrow(2, 0, side)?.contiguous()?.reshape(((), width))?
            }
        };
        let xs = residual(xs, &ys, self.attn.proj.bias(), None)?;
        residual(&xs, &self.mlp.gelu(&self.layer_norm2.forward(&xs)?)?, self.mlp.lin2.bias(), None)
    }
}

/// The image encoder.
#[derive(Debug, Clone)]
struct VisionEncoder {
    /// The patch convolution as a linear layer.
    patch_embed: Linear,
    /// (1, side, side, width)
    pos_embed: Option<Tensor>,
    layers: Vec<VisionLayer>,
    /// The 1x1 convolution as a linear layer.
    conv1: Linear,
    layer_norm1: LayerNorm,
    conv2: Conv2d,
    layer_norm2: LayerNorm,
    config: SamVisionConfig,
}

impl VisionEncoder {
    fn new(vb: VarBuilder, config: &SamVisionConfig) -> Result<Self> {
        let (width, channels, patch) = (config.hidden_size, config.output_channels, config.patch_size);
        let side = config.image_size / patch;
        let projection = vb.pp("patch_embed.projection");
        let weight = projection.get((width, config.num_channels, patch, patch), "weight")?.flatten_from(1)?;
        let neck = vb.pp("neck");
        let conv1 = neck.get((channels, width, 1, 1), "conv1.weight")?.flatten_from(1)?;
        let conv2 = neck.get((channels, channels, 3, 3), "conv2.weight")?;
        let no_bias = Tensor::zeros(channels, conv2.dtype(), conv2.device())?;
        let position = || vb.get((1, side, side, width), "pos_embed");
        let layers = vb.pp("layers");
        Ok(Self {
            patch_embed: Linear::from_tensors(&weight, Some(projection.get(width, "bias")?))?,
            pos_embed: config.use_abs_pos.then(position).transpose()?,
            layers: (0..config.num_hidden_layers)
                .map(|n| VisionLayer::new(layers.pp(n), n, config))
                .collect::<Result<_>>()?,
            conv1: Linear::from_tensors(&conv1, None)?,
            layer_norm1: LayerNorm::new(neck.pp("layer_norm1"), channels, EPS)?,
            conv2: Conv2d::from_tensors(&conv2, no_bias, Geometry::SAME_3X3)?,
            layer_norm2: LayerNorm::new(neck.pp("layer_norm2"), channels, EPS)?,
            config: config.clone(),
        })
    }

    /// Encodes (batch, 3, size, size) as (batch, cells, channels).
    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = pixels.dims4()?;
        let SamVisionConfig { image_size, patch_size, num_channels, output_channels, .. } = self.config;
        if (channels, height, width) != (num_channels, image_size, image_size) {
            bail!("SAM takes {num_channels} x {image_size} x {image_size}, got {channels} x {height} x {width}");
        }
        let side = image_size / patch_size;
        let patches = pixels.reshape(&[batch, channels, side, patch_size, side, patch_size])?;
        let patches = patches.permute(vec![0, 2, 4, 1, 3, 5])?.contiguous()?;
        let patches = patches.reshape((batch * side * side, channels * patch_size * patch_size))?;
        let mut xs = self.patch_embed.forward(&patches)?;
        if let Some(positions) = &self.pos_embed {
            xs = xs.reshape((batch, side, side, ()))?.broadcast_add(positions)?.flatten_to(2)?;
        }
        for layer in &self.layers {
            xs = layer.forward(&xs, batch, side)?;
        }
        let xs = self.layer_norm1.forward(&self.conv1.product(&xs)?)?;
        let map = xs.reshape((batch, side, side, output_channels))?.permute((0, 3, 1, 2))?;
        let map = self.conv2.forward(&map)?.permute((0, 2, 3, 1))?.contiguous()?;
        self.layer_norm2.forward(&map.reshape((batch, side * side, output_channels))?)
    }
}

/// Attention of the decoder, whose inner width is smaller than its outer width.
#[derive(Debug, Clone)]
struct DecoderAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    heads: usize,
    inner: usize,
}

impl DecoderAttention {
    fn new(vb: VarBuilder, rate: usize, config: &SamMaskDecoderConfig) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.hidden_size / rate);
        let linear = |name: &str| Linear::new(vb.pp(name), width, inner);
        Ok(Self {
            q_proj: linear("q_proj")?,
            k_proj: linear("k_proj")?,
            v_proj: linear("v_proj")?,
            out_proj: Linear::new(vb.pp("out_proj"), inner, width)?,
            heads: config.num_attention_heads,
            inner,
        })
    }

    /// Each (tokens, width).
    fn forward(&self, queries: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
        let head_dim = self.inner / self.heads;
        let heads = |xs: &Tensor, linear: &Linear| {
            let options = HeadOptions { bias: linear.bias(), ..HeadOptions::default() };
            split_heads(&linear.product(xs)?, 0, (1, self.heads, head_dim), options)?.squeeze(0)
        };
        let seen = KeyValue { keys: heads(keys, &self.k_proj)?, values: heads(values, &self.v_proj)? };
        let mixed = attend(&heads(queries, &self.q_proj)?, &[&seen], 1.0 / (head_dim as f64).sqrt())?;
        self.out_proj.forward(&mixed)
    }
}

/// Self-attention of the prompt tokens, and cross-attention between tokens and image in both directions.
#[derive(Debug, Clone)]
struct TwoWayBlock {
    self_attn: DecoderAttention,
    layer_norm1: LayerNorm,
    cross_attn_token_to_image: DecoderAttention,
    layer_norm2: LayerNorm,
    mlp: Mlp,
    layer_norm3: LayerNorm,
    cross_attn_image_to_token: DecoderAttention,
    layer_norm4: LayerNorm,
    is_first: bool,
}

impl TwoWayBlock {
    fn new(vb: VarBuilder, index: usize, config: &SamMaskDecoderConfig) -> Result<Self> {
        let norm = |name: &str| LayerNorm::new(vb.pp(name), config.hidden_size, config.layer_norm_eps);
        let cross = |name: &str| DecoderAttention::new(vb.pp(name), config.attention_downsample_rate, config);
        Ok(Self {
            self_attn: DecoderAttention::new(vb.pp("self_attn"), 1, config)?,
            layer_norm1: norm("layer_norm1")?,
            cross_attn_token_to_image: cross("cross_attn_token_to_image")?,
            layer_norm2: norm("layer_norm2")?,
            mlp: Mlp::new(vb.pp("mlp"), config.hidden_size, config.mlp_dim)?,
            layer_norm3: norm("layer_norm3")?,
            cross_attn_image_to_token: cross("cross_attn_image_to_token")?,
            layer_norm4: norm("layer_norm4")?,
            is_first: index == 0,
        })
    }

    /// Takes tokens and cells with their positions; returns both updated.
    fn forward(&self, tokens: &Tensor, cells: &Tensor, points: &Tensor, places: &Tensor) -> Result<(Tensor, Tensor)> {
        // In the first block the tokens are the positions, so no positions are added.
        let tokens = match self.is_first {
            true => self.self_attn.forward(tokens, tokens, tokens)?,
            false => {
                let placed = (tokens + points)?;
                (tokens + self.self_attn.forward(&placed, &placed, tokens)?)?
            }
        };
        let tokens = self.layer_norm1.forward(&tokens)?;
        let placed_cells = (cells + places)?;
        let seen = self.cross_attn_token_to_image.forward(&(&tokens + points)?, &placed_cells, cells)?;
        let tokens = self.layer_norm2.forward(&(tokens + seen)?)?;
        let ys = self.mlp.relu(&tokens)?;
        let tokens = self.layer_norm3.forward(&residual(&tokens, &ys, self.mlp.lin2.bias(), None)?)?;
        let seen = self.cross_attn_image_to_token.forward(&placed_cells, &(&tokens + points)?, &tokens)?;
        let cells = self.layer_norm4.forward(&(cells + seen)?)?;
        Ok((tokens, cells))
    }
}

/// A multilayer perceptron with ReLU, named as in the checkpoint.
#[derive(Debug, Clone)]
struct Head {
    layers: Vec<Linear>,
}

impl Head {
    fn new(vb: VarBuilder, width: usize, inner: usize, outputs: usize, depth: usize) -> Result<Self> {
        let mut layers = vec![Linear::new(vb.pp("proj_in"), width, inner)?];
        for n in 0..depth.saturating_sub(2) {
            layers.push(Linear::new(vb.pp("layers").pp(n), inner, inner)?);
        }
        layers.push(Linear::new(vb.pp("proj_out"), inner, outputs)?);
        Ok(Self { layers })
    }

    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        rectified_between(&self.layers, xs)
    }
}

/// A 2x2 transposed convolution with stride 2: every cell becomes four.
#[derive(Debug, Clone)]
struct Quadruple {
    linear: Linear,
    outputs: usize,
}

impl Quadruple {
    fn new(vb: VarBuilder, inputs: usize, outputs: usize) -> Result<Self> {
        let weight = vb.get((inputs, outputs, 2, 2), "weight")?.permute((2, 3, 1, 0))?.contiguous()?;
        let bias = vb.get(outputs, "bias")?.repeat(4)?;
        Ok(Self { linear: Linear::from_tensors(&weight.reshape((4 * outputs, inputs))?, Some(bias))?, outputs })
    }

    /// (side · side, inputs) to (2 · side · 2 · side, outputs).
    fn forward(&self, xs: &Tensor, side: usize) -> Result<Tensor> {
        let four = self.linear.forward(xs)?.reshape((side, side, 2, 2 * self.outputs))?; // row, column, down, across
        four.transpose(1, 2)?.contiguous()?.reshape((4 * side * side, self.outputs))
    }
}

/// The mask decoder.
#[derive(Debug, Clone)]
struct MaskDecoder {
    /// (1 + masks, width): the IoU token, then the mask tokens.
    output_tokens: Tensor,
    layers: Vec<TwoWayBlock>,
    final_attn_token_to_image: DecoderAttention,
    layer_norm_final_attn: LayerNorm,
    upscale_conv1: Quadruple,
    upscale_layer_norm: LayerNorm,
    upscale_conv2: Quadruple,
    output_hypernetworks_mlps: Vec<Head>,
    iou_prediction_head: Head,
}

impl MaskDecoder {
    fn new(vb: VarBuilder, config: &SamMaskDecoderConfig) -> Result<Self> {
        let (width, masks) = (config.hidden_size, config.num_multimask_outputs + 1);
        let (iou_token, mask_tokens) =
            (vb.get((1, width), "iou_token.weight")?, vb.get((masks, width), "mask_tokens.weight")?);
        let (transformer, mlps) = (vb.pp("transformer"), vb.pp("output_hypernetworks_mlps"));
        let layers = transformer.pp("layers");
        let final_attention = transformer.pp("final_attn_token_to_image");
        Ok(Self {
            output_tokens: Tensor::cat(&[iou_token, mask_tokens], 0)?,
            layers: (0..config.num_hidden_layers)
                .map(|n| TwoWayBlock::new(layers.pp(n), n, config))
                .collect::<Result<_>>()?,
            final_attn_token_to_image: DecoderAttention::new(
                final_attention,
                config.attention_downsample_rate,
                config,
            )?,
            layer_norm_final_attn: LayerNorm::new(transformer.pp("layer_norm_final_attn"), width, FINAL_EPS)?,
            upscale_conv1: Quadruple::new(vb.pp("upscale_conv1"), width, width / 4)?,
            upscale_layer_norm: LayerNorm::new(vb.pp("upscale_layer_norm"), width / 4, EPS)?,
            upscale_conv2: Quadruple::new(vb.pp("upscale_conv2"), width / 4, width / 8)?,
            output_hypernetworks_mlps: (0..masks)
                .map(|n| Head::new(mlps.pp(n), width, width, width / 8, 3))
                .collect::<Result<_>>()?,
            iou_prediction_head: Head::new(
                vb.pp("iou_prediction_head"),
                width,
                config.iou_head_hidden_dim,
                masks,
                config.iou_head_depth,
            )?,
        })
    }

    /// Decodes one prompt on one picture: returns all masks (masks, 4 · side, 4 · side) and their IoU scores (masks).
    fn forward(&self, cells: &Tensor, places: &Tensor, prompt: &Tensor, side: usize) -> Result<(Tensor, Tensor)> {
        let points = Tensor::cat(&[&self.output_tokens, prompt], 0)?;
        let (mut tokens, mut cells) = (points.clone(), cells.clone());
        for layer in &self.layers {
            (tokens, cells) = layer.forward(&tokens, &cells, &points, places)?;
        }
        let seen = self.final_attn_token_to_image.forward(&(&tokens + &points)?, &(&cells + places)?, &cells)?;
        let tokens = self.layer_norm_final_attn.forward(&(tokens + seen)?)?;
        let map = self.upscale_layer_norm.forward(&self.upscale_conv1.forward(&cells, side)?)?;
        let map = activate(map, None, Activation::GeluErf)?;
        let map = activate(self.upscale_conv2.forward(&map, 2 * side)?, None, Activation::GeluErf)?;
        let filters = self.output_hypernetworks_mlps.iter().enumerate();
        let filters =
            filters.map(|(n, head)| head.forward(&tokens.narrow(0, 1 + n, 1)?)).collect::<Result<Vec<_>>>()?;
        let masks =
            Tensor::cat(&filters, 0)?.checked_matmul(&map.t()?)?.reshape((filters.len(), 4 * side, 4 * side))?;
        Ok((masks, self.iou_prediction_head.forward(&tokens.narrow(0, 0, 1)?)?.squeeze(0)?))
    }
}

/// A prompt, in pixels of SAM's square input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SamPrompt {
    /// Left, top, right, bottom.
    pub bounding_box: Option<[f32; 4]>,
    /// Points, each labelled as foreground or background.
    pub points: Vec<SamPoint>,
}

/// A point of a prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamPoint {
    /// Horizontal position in pixels.
    pub x: f32,
    /// Vertical position in pixels.
    pub y: f32,
    /// Whether the point is foreground, else background.
    pub is_subject: bool,
}

/// Encodes prompts as tokens.
#[derive(Debug, Clone)]
struct PromptEncoder {
    /// (2, num_pos_feats): the fixed random projection of the positions, stored in the checkpoint.
    positional_embedding: Tensor,
    /// Embeddings of background point, foreground point, upper left corner, lower right corner; each (1, width).
    point_embed: Vec<Tensor>,
    not_a_point_embed: Tensor,
    no_mask_embed: Tensor,
    image_size: usize,
}

impl PromptEncoder {
    fn new(vb: &VarBuilder, config: &SamVisionConfig) -> Result<Self> {
        let (width, own) = (2 * config.num_pos_feats, vb.pp("prompt_encoder"));
        let is_shared = vb.contains_tensor("shared_image_embedding.positional_embedding");
        let table = if is_shared { vb.pp("shared_image_embedding") } else { own.pp("shared_embedding") };
        let embedding = |name: String| own.get((1, width), &format!("{name}.weight"));
        Ok(Self {
            positional_embedding: table.get((2, config.num_pos_feats), "positional_embedding")?,
            point_embed: (0..4).map(|n| embedding(format!("point_embed.{n}"))).collect::<Result<_>>()?,
            not_a_point_embed: embedding("not_a_point_embed".to_owned())?,
            no_mask_embed: embedding("no_mask_embed".to_owned())?,
            image_size: config.image_size,
        })
    }

    /// Returns the Fourier features of positions in [0, 1], x before y: (positions, width).
    fn positions(&self, places: &[[f32; 2]]) -> Result<Tensor> {
        let centred: Vec<f32> = places.iter().flatten().map(|at| 2.0 * at - 1.0).collect();
        let places = Tensor::from_vec(centred, (places.len(), 2), self.positional_embedding.device())?;
        let angles = (places.checked_matmul(&self.positional_embedding)? * (2.0 * std::f64::consts::PI))?;
        Tensor::cat(&[angles.sin()?, angles.cos()?], 1)
    }

    /// Returns the position encoding of every cell: (side · side, width).
    fn cells(&self, side: usize) -> Result<Tensor> {
        let place = |at: usize| (at as f32 + 0.5) / side as f32;
        let cells: Vec<_> = (0..side * side).map(|cell| [place(cell % side), place(cell / side)]).collect();
        self.positions(&cells)
    }

    /// Returns (tokens, width). A prompt without a box gets a padding point, as in the reference.
    fn forward(&self, prompt: &SamPrompt) -> Result<Tensor> {
        let place = |at: f32| (at + 0.5) / self.image_size as f32;
        let mut tokens = Vec::new();
        for point in &prompt.points {
            let kind = &self.point_embed[usize::from(point.is_subject)];
            tokens.push((self.positions(&[[place(point.x), place(point.y)]])? + kind)?);
        }
        match prompt.bounding_box {
            None => tokens.push(self.not_a_point_embed.clone()),
            Some([left, top, right, bottom]) => {
                for (corner, kind) in [([left, top], 2), ([right, bottom], 3)] {
                    tokens.push((self.positions(&[corner.map(place)])? + &self.point_embed[kind])?);
                }
            }
        }
        Tensor::cat(&tokens, 0)
    }
}

/// The image embedding of a picture; one embedding serves all prompts.
#[derive(Debug, Clone)]
pub struct SamEmbedding {
    /// (cells, width)
    cells: Tensor,
    side: usize,
}

impl SamEmbedding {
    /// Returns the embedding as (width, side, side), the reference's layout.
    pub fn map(&self) -> Result<Tensor> {
        self.cells.t()?.reshape(((), self.side, self.side))
    }
}

/// Mask logits of a prompt at a quarter of the square's size. Positive values are inside the mask.
#[derive(Debug, Clone)]
pub struct SamMasks {
    /// (1 + num_multimask_outputs, height, width): the mask for an unambiguous prompt, then those for an ambiguous
    /// one.
    pub masks: Tensor,
    /// The network's estimate of each mask's IoU.
    pub iou_scores: Tensor,
}

/// The SAM network. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct Sam {
    vision_encoder: VisionEncoder,
    prompt_encoder: PromptEncoder,
    mask_decoder: MaskDecoder,
    config: SamConfig,
}

impl Sam {
    /// Builds the network; float32 only.
    pub fn new(vb: VarBuilder, config: &SamConfig) -> Result<Self> {
        config.check()?;
        if vb.dtype() != DType::F32 {
            bail!("SAM is computed in float32, not {:?}", vb.dtype());
        }
        Ok(Self {
            vision_encoder: VisionEncoder::new(vb.pp("vision_encoder"), &config.vision_config)?,
            prompt_encoder: PromptEncoder::new(&vb, &config.vision_config)?,
            mask_decoder: MaskDecoder::new(vb.pp("mask_decoder"), &config.mask_decoder_config)?,
            config: config.clone(),
        })
    }

    /// Returns whether a tensor of a published checkpoint is unused: the weights for mask prompts, and the duplicate
    /// of the position encoding.
    pub fn is_ignored(name: &str) -> bool {
        name.starts_with("prompt_encoder.mask_embed.") || name == "prompt_encoder.shared_embedding.positional_embedding"
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &SamConfig {
        &self.config
    }

    /// Computes the image embeddings of pictures (batch, 3, size, size).
    pub fn embed(&self, pixels: &Tensor) -> Result<Vec<SamEmbedding>> {
        let side = self.config.vision_config.image_size / self.config.vision_config.patch_size;
        let cells = self.vision_encoder.forward(pixels)?;
        (0..cells.dim(0)?).map(|image| Ok(SamEmbedding { cells: cells.get(image)?, side })).collect()
    }

    /// Predicts the masks of a prompt.
    pub fn masks(&self, picture: &SamEmbedding, prompt: &SamPrompt) -> Result<SamMasks> {
        let cells = picture.cells.broadcast_add(&self.prompt_encoder.no_mask_embed)?;
        let places = self.prompt_encoder.cells(picture.side)?;
        let prompt = self.prompt_encoder.forward(prompt)?;
        let (masks, iou_scores) = self.mask_decoder.forward(&cells, &places, &prompt, picture.side)?;
        Ok(SamMasks { masks, iou_scores })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_rows_count_from_key_to_query() {
        let table = Tensor::arange(0f32, 3.0, &Device::Cpu).unwrap().reshape((3, 1)).unwrap();
        let rows = relative(&table, 2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(rows, [1.0, 0.0, 2.0, 1.0]);
    }
}
