//! DINOv2 vision transformer: takes images, returns one class token and a grid of patch tokens per image.
//!
//! Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision" (2023); compared with
//! `modeling_dinov2.py` of transformers 5.23. Reads the tensor names of the Hugging Face files and of the torch-hub
//! files. Registers and the SwiGLU MLP of the giant model are not supported and are rejected.
//!
//! The table of position embeddings belongs to one grid of patches. Published pipelines resample it to other grids in
//! different ways, so resampling is a separate step ([`Dinov2::with_grid`]), done once. An image with another grid is
//! then rejected, not silently interpolated. candle-transformers' version is not used: it resamples by nearest
//! neighbour where the original is bicubic, and fixes the image size at 518 pixels, so its results differ from the
//! reference.
//!
//! The layer scales are folded into the preceding projections at load time: one pass over the weights instead of one
//! over all activations in every run. Matrix products run in the weights' dtype; the residual stream, norms and
//! softmax are f32.

use candle_core::{DType, Module, Result, Tensor, bail};
use candle_nn::{Linear, VarBuilder};
use serde::Deserialize;

use crate::layers::{
    CheckedMatmul,
    attention::{KeyValue, attend},
    has_own_kernels,
    kernels::{Activation, activate, residual},
    norm::LayerNorm,
    resize::{resize_bicubic, resize_bicubic_antialias},
};

/// ImageNet's channel means (red, green, blue), for values in [0, 1]; the network was trained with them.
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations.
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Configuration, as in a published `config.json`. Fields absent from the file take the defaults of the reference
/// class. Torch-hub files come without a configuration and use the same defaults.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub struct Dinov2Config {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Number of attention heads; must divide `hidden_size`.
    pub num_attention_heads: usize,
    /// Inner width of the MLP as a multiple of `hidden_size`.
    pub mlp_ratio: f64,
    /// Activation of the MLP.
    pub hidden_act: HiddenActivation,
    /// Epsilon of the layer norms.
    pub layer_norm_eps: f64,
    /// Side in pixels of the images that the stored position table is for.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Number of channels of the image.
    pub num_channels: usize,
    /// Whether query, key and value have a bias.
    pub qkv_bias: bool,
    /// Whether the MLP is the SwiGLU of the giant model, which is rejected.
    pub use_swiglu_ffn: bool,
}

/// The only activation of published DINOv2 models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HiddenActivation {
    /// GELU, erf form.
    Gelu,
}

impl Default for Dinov2Config {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: HiddenActivation::Gelu,
            layer_norm_eps: 1e-6,
            image_size: 224,
            patch_size: 14,
            num_channels: 3,
            qkv_bias: true,
            use_swiglu_ffn: false,
        }
    }
}

impl Dinov2Config {
    /// The configuration of `facebook/dinov2-base` and of the torch-hub model `dinov2_vitb14`.
    pub fn vit_b14() -> Self {
        Self { image_size: 518, ..Self::default() }
    }

    fn check(&self) -> Result<()> {
        if self.use_swiglu_ffn {
            bail!("use_swiglu_ffn is true; only DINOv2 models with the plain feed-forward can be loaded");
        }
        if self.num_attention_heads == 0 || !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            bail!("hidden_size {} is not a multiple of {} heads", self.hidden_size, self.num_attention_heads);
        }
        if self.patch_size == 0 || self.image_size < self.patch_size {
            bail!("patch_size {} does not fit into image_size {}", self.patch_size, self.image_size);
        }
        Ok(())
    }

    fn mlp_size(&self) -> usize {
        (self.hidden_size as f64 * self.mlp_ratio) as usize
    }
}

/// How the position table is resampled to another grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionResampling {
    /// Bicubic with antialiasing, as in timm's `resample_abs_pos_embed` and in EchoGen.
    Antialiased,
    /// Bicubic without antialiasing, as in the reference model of transformers.
    Plain,
}

/// The two published naming schemes of the tensors.
#[derive(Debug, Clone, Copy)]
enum KeyLayout {
    HuggingFace,
    TorchHub,
}

impl KeyLayout {
    fn of(vb: &VarBuilder) -> Self {
        if vb.contains_tensor("pos_embed") { Self::TorchHub } else { Self::HuggingFace }
    }
}

/// Multi-head self-attention with one matrix for query, key and value.
#[derive(Debug, Clone)]
struct Attention {
    /// Rows: all queries, all keys, all values.
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

impl Attention {
    fn new(vb: VarBuilder, layout: KeyLayout, scale: &Tensor, config: &Dinov2Config) -> Result<Self> {
        let width = config.hidden_size;
        let (qkv, proj) = match layout {
            KeyLayout::HuggingFace => {
                let vb_attention = vb.pp("attention.attention");
                let parts = ["query", "key", "value"]
                    .map(|name| candle_nn::linear_b(width, width, config.qkv_bias, vb_attention.pp(name)));
                (stack_rows(parts)?, vb.pp("attention.output.dense"))
            }
            KeyLayout::TorchHub => {
                (candle_nn::linear_b(width, 3 * width, config.qkv_bias, vb.pp("attn.qkv"))?, vb.pp("attn.proj"))
            }
        };
        let proj = scale_rows(candle_nn::linear(width, width, proj)?, scale)?;
        Ok(Self { qkv, proj, heads: config.num_attention_heads })
    }

    /// Returns the branch's output without the bias of `proj`, which the residual addition adds; `xs` (batch * tokens,
    /// width).
    fn forward(&self, xs: &Tensor, batch: usize) -> Result<Tensor> {
        let (rows, width) = xs.dims2()?;
        // (batch, 3, heads, tokens, head_width)
        let qkv = self
            .qkv
            .forward(xs)?
            .reshape((batch, rows / batch, 3, self.heads, width / self.heads))?
            .permute((0, 2, 3, 1, 4))?;
        // Image by image: the heads of one image have a plain stride, so the products can read views.
        let images = (0..batch).map(|n| attend_image(&qkv.get(n)?)).collect::<Result<Vec<_>>>()?;
        product(&Tensor::cat(&images, 0)?, &self.proj)
    }
}

/// (3, heads, tokens, head_width) to (tokens, heads * head_width)
fn attend_image(qkv: &Tensor) -> Result<Tensor> {
    // Only our own product supports rows that are not contiguous.
    let qkv = if has_own_kernels(qkv) { qkv.clone() } else { qkv.contiguous()? };
    let scale = 1.0 / (qkv.dim(3)? as f64).sqrt();
    attend(&qkv.get(0)?, &[&KeyValue { keys: qkv.get(1)?, values: qkv.get(2)? }], scale)
}

/// `xs` (rows, inputs) times the weight of `linear`, without its bias, which a later fused kernel adds.
fn product(xs: &Tensor, linear: &Linear) -> Result<Tensor> {
    xs.checked_matmul(&linear.weight().t()?)
}

fn stack_rows(parts: [Result<Linear>; 3]) -> Result<Linear> {
    let [q, k, v] = parts;
    let (q, k, v) = (q?, k?, v?);
    let weight = Tensor::cat(&[q.weight(), k.weight(), v.weight()], 0)?;
    let bias = match (q.bias(), k.bias(), v.bias()) {
        (Some(q), Some(k), Some(v)) => Some(Tensor::cat(&[q, k, v], 0)?),
        _ => None,
    };
    Ok(Linear::new(weight, bias))
}

/// Multiplies each output of `linear` by the corresponding value of `scale` (outputs).
fn scale_rows(linear: Linear, scale: &Tensor) -> Result<Linear> {
    let dtype = linear.weight().dtype();
    let scaled = |xs: Tensor, scale: &Tensor| xs.to_dtype(DType::F32)?.broadcast_mul(scale)?.to_dtype(dtype);
    let weight = scaled(linear.weight().clone(), &scale.unsqueeze(1)?)?;
    let bias = linear.bias().map(|bias| scaled(bias.clone(), scale)).transpose()?;
    Ok(Linear::new(weight, bias))
}

#[derive(Debug, Clone)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
}

impl Mlp {
    fn new(vb: VarBuilder, scale: &Tensor, config: &Dinov2Config) -> Result<Self> {
        let (width, inner) = (config.hidden_size, config.mlp_size());
        let fc1 = candle_nn::linear(width, inner, vb.pp("fc1"))?;
        let fc2 = scale_rows(candle_nn::linear(inner, width, vb.pp("fc2"))?, scale)?;
        Ok(Self { fc1, fc2 })
    }

    /// Returns the branch's output without the bias of `fc2`, which the residual addition adds; `xs` (rows, width).
    fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        product(&activate(product(xs, &self.fc1)?, self.fc1.bias(), Activation::GeluErf)?, &self.fc2)
    }
}

/// A pre-norm transformer block: attention, then MLP; each with a layer norm before, a layer scale, and a residual
/// addition.
#[derive(Debug, Clone)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn new(vb: VarBuilder, layout: KeyLayout, config: &Dinov2Config) -> Result<Self> {
        let width = config.hidden_size;
        let (scale1, scale2) = match layout {
            KeyLayout::HuggingFace => ("layer_scale1.lambda1", "layer_scale2.lambda1"),
            KeyLayout::TorchHub => ("ls1.gamma", "ls2.gamma"),
        };
        let scale = |name| vb.get_with_hints_dtype(width, name, Default::default(), DType::F32);
        Ok(Self {
            norm1: LayerNorm::new(vb.pp("norm1"), width, config.layer_norm_eps)?,
            attn: Attention::new(vb.clone(), layout, &scale(scale1)?, config)?,
            norm2: LayerNorm::new(vb.pp("norm2"), width, config.layer_norm_eps)?,
            mlp: Mlp::new(vb.pp("mlp"), &scale(scale2)?, config)?,
        })
    }

    /// `xs`: (batch * tokens, width), f32.
    fn forward(&self, xs: &Tensor, batch: usize) -> Result<Tensor> {
        let dtype = self.attn.proj.weight().dtype();
        let ys = self.attn.forward(&self.norm1.forward(xs)?.to_dtype(dtype)?, batch)?;
        let xs = residual(xs, &ys, self.attn.proj.bias(), None)?;
        let ys = self.mlp.forward(&self.norm2.forward(&xs)?.to_dtype(dtype)?)?;
        residual(&xs, &ys, self.mlp.fc2.bias(), None)
    }
}

/// The network's output for a batch of images, after the final norm.
#[derive(Debug, Clone)]
pub struct Dinov2Output {
    /// Class token of each image: (batch, hidden_size).
    pub cls_token: Tensor,
    /// Patch tokens, row-major: (batch, rows * columns, hidden_size).
    pub patch_tokens: Tensor,
}

/// Position embeddings for one grid of patches.
#[derive(Debug, Clone)]
struct PositionTable {
    /// (1, 1 + rows * columns, hidden_size); the class token's row comes first.
    embeddings: Tensor,
    rows: usize,
    columns: usize,
}

impl PositionTable {
    fn resampled(&self, rows: usize, columns: usize, how: PositionResampling) -> Result<Self> {
        let (_, tokens, width) = self.embeddings.dims3()?;
        let class = self.embeddings.narrow(1, 0, 1)?;
        // (1, hidden_size, rows, columns)
        let grid =
            self.embeddings.narrow(1, 1, tokens - 1)?.transpose(1, 2)?.reshape((1, width, self.rows, self.columns))?;
        let grid = match how {
            PositionResampling::Antialiased => resize_bicubic_antialias(&grid, rows, columns)?,
            PositionResampling::Plain => resize_bicubic(&grid, rows, columns)?,
        };
        let embeddings = Tensor::cat(&[class, grid.flatten_from(2)?.transpose(1, 2)?.contiguous()?], 1)?;
        Ok(Self { embeddings, rows, columns })
    }
}

/// A DINOv2 vision transformer. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct Dinov2 {
    /// (1, 1, hidden_size)
    cls_token: Tensor,
    stored_positions: PositionTable,
    positions: PositionTable,
    /// The patch convolution as a linear layer, from a patch's values to its embedding.
    patch_embed: Linear,
    blocks: Vec<Block>,
    norm: LayerNorm,
    config: Dinov2Config,
}

impl Dinov2 {
    /// Builds the network for images of the stored table's size; see [`with_grid`](Self::with_grid).
    pub fn new(vb: VarBuilder, config: &Dinov2Config) -> Result<Self> {
        config.check()?;
        let vb = if vb.contains_tensor("dinov2.embeddings.cls_token") { vb.pp("dinov2") } else { vb };
        let layout = KeyLayout::of(&vb);
        let (embeddings, positions, projection, blocks, norm) = match layout {
            KeyLayout::HuggingFace => {
                let embeddings = vb.pp("embeddings");
                let projection = embeddings.pp("patch_embeddings.projection");
                (embeddings, "position_embeddings", projection, vb.pp("encoder.layer"), vb.pp("layernorm"))
            }
            KeyLayout::TorchHub => (vb.clone(), "pos_embed", vb.pp("patch_embed.proj"), vb.pp("blocks"), vb.pp("norm")),
        };
        let side = config.image_size / config.patch_size;
        let width = config.hidden_size;
        let table = embeddings.get((1, 1 + side * side, width), positions)?;
        let positions = PositionTable { embeddings: table, rows: side, columns: side };
        Ok(Self {
            cls_token: embeddings.get((1, 1, width), "cls_token")?,
            stored_positions: positions.clone(),
            positions,
            patch_embed: patch_embed(projection, config)?,
            blocks: (0..config.num_hidden_layers)
                .map(|n| Block::new(blocks.pp(n), layout, config))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(norm, width, config.layer_norm_eps)?,
            config: config.clone(),
        })
    }

    /// Returns the network for images of `rows` x `columns` patches, sharing the weights with this one. The position
    /// table is always resampled from the stored one.
    pub fn with_grid(&self, rows: usize, columns: usize, how: PositionResampling) -> Result<Self> {
        let positions = self.stored_positions.resampled(rows, columns, how)?;
        Ok(Self { positions, ..self.clone() })
    }

    /// Returns whether a tensor of a published checkpoint is unused at inference.
    pub fn is_ignored(name: &str) -> bool {
        let name = name.strip_prefix("dinov2.").unwrap_or(name);
        matches!(name, "mask_token" | "embeddings.mask_token") || name.starts_with("classifier.")
    }

    /// Returns the configuration of the network.
    pub fn config(&self) -> &Dinov2Config {
        &self.config
    }

    /// Returns (height, width) in pixels of the images that [`forward`](Self::forward) takes.
    pub fn image_size(&self) -> (usize, usize) {
        (self.positions.rows * self.config.patch_size, self.positions.columns * self.config.patch_size)
    }

    /// Returns the position table in use, (1, 1 + rows * columns, hidden_size), the class token's row first.
    pub fn position_embeddings(&self) -> &Tensor {
        &self.positions.embeddings
    }

    /// Preprocesses images (batch, 3, height, width) in [-1, 1] as EchoGen does: normalisation by ImageNet's mean and
    /// standard deviation first, then bicubic resizing without antialiasing or clipping.
    pub fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        let (height, width) = self.image_size();
        resize_bicubic(&imagenet_normalized(images)?, height, width)
    }

    /// Returns class token and patch tokens, f32, of preprocessed images (batch, channels, height, width) of exactly
    /// [`image_size`](Self::image_size).
    pub fn forward(&self, images: &Tensor) -> Result<Dinov2Output> {
        self.normed(&self.run(images, |_| ())?)
    }

    /// As [`forward`](Self::forward), and also returns the embedding and the state after each block, before the final
    /// norm: (batch, 1 + rows * columns, hidden_size) each.
    pub fn forward_with_hidden_states(&self, images: &Tensor) -> Result<(Vec<Tensor>, Dinov2Output)> {
        let mut states = Vec::with_capacity(self.blocks.len() + 1);
        let xs = self.run(images, |state| states.push(state))?;
        Ok((states, self.normed(&xs)?))
    }

    fn run(&self, images: &Tensor, mut visit: impl FnMut(Tensor)) -> Result<Tensor> {
        let patches = self.patch_embed.forward(&self.patches(images)?)?;
        let (batch, _, width) = patches.dims3()?;
        let class = self.cls_token.broadcast_as((batch, 1, width))?;
        let xs = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions.embeddings)?;
        let tokens = xs.dim(1)?;
        let mut xs = xs.to_dtype(DType::F32)?.reshape((batch * tokens, width))?;
        let by_image = |xs: &Tensor| xs.reshape((batch, tokens, width));
        visit(by_image(&xs)?);
        for block in &self.blocks {
            xs = block.forward(&xs, batch)?;
            visit(by_image(&xs)?);
        }
        by_image(&xs)
    }

    fn normed(&self, xs: &Tensor) -> Result<Dinov2Output> {
        let xs = self.norm.forward(xs)?;
        let tokens = xs.dim(1)?;
        Ok(Dinov2Output { cls_token: xs.get_on_dim(1, 0)?, patch_tokens: xs.narrow(1, 1, tokens - 1)? })
    }

    /// (batch, channels, height, width) to (batch, patches, channels * patch_size * patch_size)
    fn patches(&self, images: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = images.dims4()?;
        if (height, width) != self.image_size() || channels != self.config.num_channels {
            let (own_height, own_width) = self.image_size();
            bail!(
                "image has {channels} channels and {height} x {width} pixels; this network is set up for {} and \
                 {own_height} x {own_width}",
                self.config.num_channels
            );
        }
        let (side, PositionTable { rows, columns, .. }) = (self.config.patch_size, &self.positions);
        images
            .to_dtype(self.cls_token.dtype())?
            .reshape(&[batch, channels, *rows, side, *columns, side])?
            .permute(vec![0, 2, 4, 1, 3, 5])?
            .reshape((batch, rows * columns, channels * side * side))
    }
}

/// Loads the patch convolution as a matrix: (hidden_size, channels * patch_size * patch_size).
fn patch_embed(vb: VarBuilder, config: &Dinov2Config) -> Result<Linear> {
    let (width, side) = (config.hidden_size, config.patch_size);
    let weight = vb.get((width, config.num_channels, side, side), "weight")?.flatten_from(1)?;
    Ok(Linear::new(weight, Some(vb.get(width, "bias")?)))
}

/// Normalises values in [-1, 1] with ImageNet's mean and standard deviation, channel by channel.
fn imagenet_normalized(images: &Tensor) -> Result<Tensor> {
    let channel = |values: [f32; 3]| Tensor::from_slice(&values, (1, 3, 1, 1), images.device());
    let images = images.to_dtype(DType::F32)?.affine(0.5, 0.5)?;
    images.broadcast_sub(&channel(IMAGENET_MEAN)?)?.broadcast_div(&channel(IMAGENET_STD)?)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, path::Path};

    use candle_core::Device;

    use super::*;

    fn fixture(file: &str) -> HashMap<String, Tensor> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/dinov2");
        candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap()
    }

    fn fixture_config() -> Dinov2Config {
        serde_json::from_str(include_str!("../../../tests/fixtures/dinov2/config.json")).unwrap()
    }

    fn build(weights: HashMap<String, Tensor>, dtype: DType, config: &Dinov2Config) -> Result<Dinov2> {
        Dinov2::new(VarBuilder::from_tensors(weights, dtype, &Device::Cpu), config)
    }

    fn network(file: &str) -> Dinov2 {
        build(fixture(file), DType::F32, &fixture_config()).unwrap()
    }

    fn largest(xs: &Tensor) -> f32 {
        xs.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
    }

    /// Returns the largest difference, relative to the largest magnitude of `expected`.
    fn error(actual: &Tensor, expected: &Tensor) -> f32 {
        assert_eq!(actual.dims(), expected.dims());
        let actual = actual.to_dtype(DType::F32).unwrap();
        largest(&(actual - expected).unwrap()) / largest(expected)
    }

    #[test]
    fn both_key_layouts_equal_the_reference() {
        let io = fixture("io.safetensors");
        for file in ["model.safetensors", "model.torchhub.safetensors"] {
            let network = network(file).with_grid(4, 4, PositionResampling::Antialiased).unwrap();
            let prepared = network.prepare(&io["in.image"]).unwrap();
            let output = network.forward(&prepared).unwrap();
            assert!(error(&prepared, &io["out.resized"]) < 1e-5, "{file}");
            assert!(error(&output.cls_token, &io["out.x_norm_clstoken"]) < 1e-5, "{file}");
            assert!(error(&output.patch_tokens, &io["out.x_norm_patchtokens"]) < 1e-5, "{file}");
        }
    }

    #[test]
    fn half_precision_stays_near() {
        let io = fixture("io.safetensors");
        for (dtype, tolerance) in [(DType::F16, 1e-2), (DType::BF16, 8e-2)] {
            let network = build(fixture("model.safetensors"), dtype, &fixture_config()).unwrap();
            let network = network.with_grid(4, 4, PositionResampling::Antialiased).unwrap();
            let output = network.forward(&io["out.resized"]).unwrap();
            let error = error(&output.patch_tokens, &io["out.x_norm_patchtokens"]);
            assert!(error < tolerance, "{dtype:?} is off by {error}");
        }
    }

    #[test]
    fn a_prefix_before_all_names_is_taken_off() {
        let weights = fixture("model.safetensors");
        let prefixed = weights.into_iter().map(|(name, tensor)| (format!("dinov2.{name}"), tensor)).collect();
        let network = build(prefixed, DType::F32, &fixture_config()).unwrap();
        let network = network.with_grid(4, 4, PositionResampling::Plain).unwrap();
        let io = fixture("io.safetensors");
        let output = network.forward(&io["out.resized"]).unwrap();
        let patches = io["out.native_interp.last_hidden_state"].narrow(1, 1, 16).unwrap();
        assert!(error(&output.patch_tokens, &patches) < 1e-5);
    }

    #[test]
    fn a_grid_need_not_be_square_and_is_always_made_from_the_stored_table() {
        let stored = network("model.safetensors");
        assert_eq!(stored.image_size(), (70, 70));
        let wide = stored.with_grid(3, 7, PositionResampling::Antialiased).unwrap();
        assert_eq!(wide.image_size(), (42, 98));
        assert_eq!(wide.position_embeddings().dims(), [1, 22, 64]);
        let images = Tensor::zeros((2, 3, 42, 98), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(wide.forward(&images).unwrap().patch_tokens.dims(), [2, 21, 64]);
        let back = wide.with_grid(5, 5, PositionResampling::Antialiased).unwrap();
        assert_eq!(error(back.position_embeddings(), stored.position_embeddings()), 0.0);
    }

    #[test]
    fn an_image_of_another_size_is_refused() {
        let images = Tensor::zeros((1, 3, 56, 56), DType::F32, &Device::Cpu).unwrap();
        let message = network("model.safetensors").forward(&images).unwrap_err().to_string();
        assert!(message.contains("56 x 56 pixels; this network is set up for 3 and 70 x 70"), "{message}");
    }

    #[test]
    fn what_cannot_be_loaded_is_refused() {
        let message = |config: &Dinov2Config| build(HashMap::new(), DType::F32, config).unwrap_err().to_string();
        let swiglu = Dinov2Config { use_swiglu_ffn: true, ..Dinov2Config::default() };
        assert!(message(&swiglu).contains("use_swiglu_ffn is true"));
        let heads = Dinov2Config { num_attention_heads: 7, ..Dinov2Config::default() };
        assert!(message(&heads).contains("768 is not a multiple of 7 heads"));
        let patch = Dinov2Config { patch_size: 0, ..Dinov2Config::default() };
        assert!(message(&patch).contains("patch_size 0 does not fit"));
        assert!(serde_json::from_str::<Dinov2Config>(r#"{"hidden_act": "silu"}"#).is_err());
    }

    #[test]
    fn a_sparse_config_has_the_class_defaults() {
        let config: Dinov2Config = serde_json::from_str(r#"{"model_type": "dinov2", "image_size": 518}"#).unwrap();
        assert_eq!(config, Dinov2Config::vit_b14());
    }

    #[test]
    fn unused_tensors_are_known() {
        let unused: Vec<_> = fixture("model.safetensors").into_keys().filter(|name| Dinov2::is_ignored(name)).collect();
        assert_eq!(unused, ["embeddings.mask_token"]);
        assert!(Dinov2::is_ignored("dinov2.embeddings.mask_token"));
        assert!(!Dinov2::is_ignored("dinov2.embeddings.cls_token"));
    }
}
