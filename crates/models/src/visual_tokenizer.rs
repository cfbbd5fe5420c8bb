//! Infinity's visual tokenizer: encodes pictures as bits at several scales, and decodes them.
//!
//! A convolutional encoder returns a latent with one channel per bit. From coarse to fine, the residual is averaged to
//! the scale's size and the sign of each value becomes one bit (binary spherical quantisation: every code is a corner
//! of a cube inside the unit sphere). The decoder converts the sum of all scales' codes to the picture. EchoGen
//! samples the bits itself and uses only [`CodeSum`] and [`TokenizerDecoder`]; encoding serves training and previews.
//!
//! Paper: Infinity (arXiv:2412.04431). The published files wrap every layer (`encoder.conv_in.conv.weight`), others do
//! not, and all tensors may be below `vae`; all of these layouts are supported.

use candle_core::{DType, Device, Result, Tensor, bail};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::layers::{
    conv::{Names, PyramidConfig, PyramidDecoder, PyramidEncoder},
    draws::{add_codes, code_tokens},
    resize::resize_area,
    with_kept_layouts,
};

/// Configuration of the tokenizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// Bits per token, which is the number of channels of the latent.
    pub bits: usize,
    /// Base width.
    #[serde(default = "published_channels")]
    pub channels: usize,
    /// Width of each level as a multiple of `channels`, full resolution first. Each level but the last halves height
    /// and width.
    #[serde(default = "published_multipliers")]
    pub multipliers: Vec<usize>,
    /// As `multipliers`, for a decoder that differs from the encoder. At least as many levels: with one more, pictures are
    /// twice as high and wide as those that the encoder reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decoder_multipliers: Option<Vec<usize>>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    #[serde(default = "published_res_blocks")]
    pub res_blocks: usize,
    /// Groups of the group norms. Widths that it does not divide use [`ODD_NORM_GROUPS`].
    #[serde(default = "published_norm_groups")]
    pub norm_groups: usize,
    /// Epsilon of all norms.
    #[serde(default = "published_norm_eps")]
    pub norm_eps: f64,
}

/// Groups of a norm whose width the configured number does not divide, as in the published code.
pub const ODD_NORM_GROUPS: usize = 24;

fn published_channels() -> usize {
    128
}

fn published_multipliers() -> Vec<usize> {
    vec![1, 2, 4, 4, 4]
}

fn published_res_blocks() -> usize {
    2
}

fn published_norm_groups() -> usize {
    32
}

fn published_norm_eps() -> f64 {
    1e-6
}

impl TokenizerConfig {
    /// The published tokenizer with that many bits: 16 (EchoGen 125M) or 32 (EchoGen 2B).
    pub fn published(bits: usize) -> Self {
        Self {
            bits,
            channels: published_channels(),
            multipliers: published_multipliers(),
            decoder_multipliers: None,
            res_blocks: published_res_blocks(),
            norm_groups: published_norm_groups(),
            norm_eps: published_norm_eps(),
        }
    }

    /// Pixels of a decoded picture per latent cell along one side.
    pub fn patch_size(&self) -> usize {
        1 << self.decoder_multipliers().len().saturating_sub(1).min(usize::BITS as usize - 1)
    }

    /// Pixels of an encoded picture per latent cell along one side.
    pub fn encoder_patch_size(&self) -> usize {
        1 << self.multipliers.len().saturating_sub(1).min(usize::BITS as usize - 1)
    }

    /// The decoder's multipliers.
    pub(crate) fn decoder_multipliers(&self) -> &[usize] {
        self.decoder_multipliers.as_ref().unwrap_or(&self.multipliers)
    }

    fn encoder_pyramid(&self) -> Result<PyramidConfig> {
        self.pyramid(&self.multipliers)
    }

    fn decoder_pyramid(&self) -> Result<PyramidConfig> {
        let multipliers = self.decoder_multipliers();
        if multipliers.len() < self.multipliers.len() {
            bail!("tokenizer configuration: decoder_multipliers must have at least as many levels as multipliers");
        }
        self.pyramid(multipliers)
    }

    fn pyramid(&self, multipliers: &[usize]) -> Result<PyramidConfig> {
        let counts = [self.bits, self.channels, self.norm_groups];
        if multipliers.is_empty() || multipliers.iter().chain(&counts).any(|&n| n == 0) {
            bail!("tokenizer configuration: give at least one multiplier, and no count of zero");
        }
        Ok(PyramidConfig {
            image_channels: 3,
            latent_channels: self.bits,
            widths: multipliers.iter().map(|factor| self.channels.saturating_mul(*factor)).collect(),
            stem: self.channels,
            res_blocks: self.res_blocks,
            attention: false,
            norm_groups: self.norm_groups,
            odd_norm_groups: ODD_NORM_GROUPS,
            norm_eps: self.norm_eps,
        })
    }
}

/// Whether a tensor of the tokenizer's checkpoint belongs to neither encoder nor decoder: an unused buffer of the
/// quantiser.
pub fn is_leftover(name: &str) -> bool {
    name.strip_prefix("vae.").unwrap_or(name) == "quantizer.lfq.mask"
}

/// Detects prefix and naming scheme of the tensors by the first convolution of `part`.
fn layout<'a>(vb: VarBuilder<'a>, part: &str) -> (VarBuilder<'a>, Names) {
    let (wrapped, bare) = (format!("{part}.conv_in.conv.weight"), format!("{part}.conv_in.weight"));
    let nested = vb.pp("vae");
    let is_nested = nested.contains_tensor(&wrapped) || nested.contains_tensor(&bare);
    let vb = if is_nested { nested } else { vb };
    let names = if vb.contains_tensor(&bare) { Names::Levels } else { Names::WrappedLevels };
    (vb.pp(part), names)
}

/// The encoder.
#[derive(Debug, Clone)]
pub struct TokenizerEncoder {
    encoder: PyramidEncoder,
}

impl TokenizerEncoder {
    /// Loads the tensors below `encoder` of the tokenizer's checkpoint, in any supported layout.
    pub fn new(vb: VarBuilder, config: &TokenizerConfig) -> Result<Self> {
        let (vb, names) = layout(vb, "encoder");
        Ok(Self { encoder: PyramidEncoder::new(&vb, &config.encoder_pyramid()?, names)? })
    }

    /// Whether a tensor of the tokenizer's checkpoint is not needed when only the encoder is loaded.
    pub fn ignores(name: &str) -> bool {
        is_leftover(name) || name.strip_prefix("vae.").unwrap_or(name).starts_with("decoder.")
    }

    /// Encodes pictures (batch, 3, height, width) in [-1, 1] as latents (batch, bits, height / p, width / p), not quantised;
    /// p is the [encoder's patch size](TokenizerConfig::encoder_patch_size), 16 in the published one.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.encoder.forward_with_tap(images, |_, _| Ok(()))
    }
}

/// The decoder.
#[derive(Debug, Clone)]
pub struct TokenizerDecoder {
    decoder: PyramidDecoder,
}

impl TokenizerDecoder {
    /// Loads the tensors below `decoder` of the tokenizer's checkpoint, in any supported layout.
    pub fn new(vb: VarBuilder, config: &TokenizerConfig) -> Result<Self> {
        let (vb, names) = layout(vb, "decoder");
        Ok(Self { decoder: PyramidDecoder::new(&vb, &config.decoder_pyramid()?, names)? })
    }

    /// Whether a tensor of the tokenizer's checkpoint is not needed when only the decoder is loaded.
    pub fn ignores(name: &str) -> bool {
        is_leftover(name) || name.strip_prefix("vae.").unwrap_or(name).starts_with("encoder.")
    }

    /// Decodes code sums (batch, bits, height, width) to pictures (batch, 3, p · height, p · width) in [-1, 1]; p is the
    /// [patch size](TokenizerConfig::patch_size), 16 in the published one.
    pub fn forward(&self, summed: &Tensor) -> Result<Tensor> {
        with_kept_layouts(summed.device(), || self.decoder.forward_with_tap(summed, |_, _| Ok(())))?.clamp(-1.0, 1.0)
    }
}

/// Height and width of each scale in tokens, coarse to fine; the last is the latent's size.
pub type Scales = [(usize, usize)];

/// A quantised latent.
#[derive(Debug, Clone)]
pub struct Quantised {
    /// Bits of each scale: (batch, height, width, bits), 0 or 1 as u8.
    pub bits: Vec<Tensor>,
    /// Sum of the codes of all scales: (batch, bits, height, width).
    pub summed: Tensor,
    /// The transformer's input at each scale but the first: (batch, height · width, bits).
    pub transformer_inputs: Vec<Tensor>,
}

/// Quantises latents (batch, bits, height, width). Each scale quantises the residual of the scales before it.
pub fn quantise(latent: &Tensor, scales: &Scales) -> Result<Quantised> {
    let latent = &latent.to_dtype(DType::F32)?;
    let mut sum = CodeSum::zeros_like(latent)?;
    let mut bits = Vec::with_capacity(scales.len());
    let mut transformer_inputs = Vec::new();
    for (index, &size) in scales.iter().enumerate() {
        let residual = resize_area(&(latent - sum.tensor())?, size.0, size.1)?;
        let scale = residual.gt(0f64)?.permute((0, 2, 3, 1))?.contiguous()?; // (batch, height, width, bits)
        sum.add(&scale)?;
        bits.push(scale);
        if let Some(&next) = scales.get(index + 1) {
            transformer_inputs.push(sum.transformer_input(next)?);
        }
    }
    Ok(Quantised { bits, summed: sum.into_tensor(), transformer_inputs })
}

/// The sum of the codes of the scales so far, at the latent's size.
#[derive(Debug, Clone)]
pub struct CodeSum {
    summed: Tensor,
}

impl CodeSum {
    /// Creates an empty sum: zeros (batch, bits, height, width) on the device.
    pub fn zeros(batch: usize, bits: usize, (height, width): (usize, usize), device: &Device) -> Result<Self> {
        Ok(Self { summed: Tensor::zeros((batch, bits, height, width), DType::F32, device)? })
    }

    /// Creates an empty sum in the shape of a latent (batch, bits, height, width).
    pub fn zeros_like(latent: &Tensor) -> Result<Self> {
        Ok(Self { summed: latent.zeros_like()? })
    }

    /// Adds one scale's bits (batch, height, width, bits).
    pub fn add(&mut self, bits: &Tensor) -> Result<()> {
        self.summed = add_codes(&self.summed, bits)?;
        Ok(())
    }

    /// Returns the transformer's input at a scale of that size: the sum so far, resized bilinearly without antialiasing
    /// (four neighbours also when shrinking), as (batch, height · width, bits).
    pub fn transformer_input(&self, size: (usize, usize)) -> Result<Tensor> {
        code_tokens(&self.summed, size)
    }

    /// (batch, bits, height, width).
    pub fn tensor(&self) -> &Tensor {
        &self.summed
    }

    /// (batch, bits, height, width).
    pub fn into_tensor(self) -> Tensor {
        self.summed
    }
}

/// Converts pictures (batch, 3, height, width) in [-1, 1] to bytes (batch, height, width, 3): floor((x + 1) / 2 ·
/// 255), truncated and not rounded, as in the published code.
pub fn to_rgb8(images: &Tensor) -> Result<Tensor> {
    let levels = images.to_dtype(DType::F32)?.affine(0.5, 0.5)?.affine(255.0, 0.0)?;
    levels.clamp(0.0, 255.0)?.floor()?.permute((0, 2, 3, 1))?.to_dtype(DType::U8)?.contiguous()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn published_configuration_is_the_default() {
        let config: TokenizerConfig = serde_json::from_str(r#"{"bits": 32}"#).unwrap();
        assert_eq!(config, TokenizerConfig::published(32));
        assert_eq!(config.patch_size(), 16);
        assert_eq!(config.encoder_pyramid().unwrap().widths, [128, 256, 512, 512, 512]);
        assert_eq!(config.decoder_pyramid().unwrap().widths, [128, 256, 512, 512, 512]);
        assert!(TokenizerConfig { multipliers: vec![], ..config }.encoder_pyramid().is_err());
    }

    #[test]
    fn a_decoder_may_be_wider_and_deeper_but_not_shallower() {
        let text = r#"{"bits": 32, "channels": 8, "multipliers": [1, 2], "decoder_multipliers": [2, 4]}"#;
        let config: TokenizerConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.encoder_pyramid().unwrap().widths, [8, 16]);
        assert_eq!(config.decoder_pyramid().unwrap().widths, [16, 32]);
        assert_eq!((config.encoder_patch_size(), config.patch_size()), (2, 2));
        let deeper = TokenizerConfig { decoder_multipliers: Some(vec![1, 2, 4]), ..config.clone() };
        assert_eq!(deeper.decoder_pyramid().unwrap().widths, [8, 16, 32]);
        assert_eq!((deeper.encoder_patch_size(), deeper.patch_size()), (2, 4));
        let shallower = TokenizerConfig { decoder_multipliers: Some(vec![2]), ..config };
        assert!(shallower.decoder_pyramid().unwrap_err().to_string().contains("at least as many levels"));
    }

    #[test]
    fn each_scale_codes_what_is_left() -> Result<()> {
        // One bit: at the first scale the mean is positive, so the code is +1 everywhere; the residual is -0.5 and
        // +1.5.
        let latent = Tensor::new(&[[[[0.5f32, 2.5]]]], &Device::Cpu)?;
        let quantised = quantise(&latent, &[(1, 1), (1, 2)])?;
        assert_eq!(quantised.bits[0].flatten_all()?.to_vec1::<u8>()?, [1]);
        assert_eq!(quantised.bits[1].flatten_all()?.to_vec1::<u8>()?, [0, 1]);
        assert_eq!(quantised.summed.flatten_all()?.to_vec1::<f32>()?, [0.0, 2.0]);
        assert_eq!(quantised.transformer_inputs.len(), 1);
        assert_eq!(quantised.transformer_inputs[0].to_vec3::<f32>()?, [[[1.0], [1.0]]]);
        Ok(())
    }

    #[test]
    fn bytes_are_cut_and_not_rounded() -> Result<()> {
        let image = Tensor::new(&[-1f32, -0.0001, 0.999, 1.0, 7.0, -7.0], &Device::Cpu)?.reshape((1, 3, 1, 2))?;
        let bytes = to_rgb8(&image)?;
        assert_eq!(bytes.dims(), [1, 1, 2, 3]);
        assert_eq!(bytes.flatten_all()?.to_vec1::<u8>()?, [0, 254, 255, 127, 255, 0]);
        Ok(())
    }

    #[test]
    fn every_layout_of_names_is_recognised() -> Result<()> {
        for (name, nested, names) in [
            ("decoder.conv_in.conv.weight", false, Names::WrappedLevels),
            ("decoder.conv_in.weight", false, Names::Levels),
            ("vae.decoder.conv_in.conv.weight", true, Names::WrappedLevels),
            ("vae.decoder.conv_in.weight", true, Names::Levels),
        ] {
            let tensors = HashMap::from([(name.to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu)?)]);
            let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
            let (vb, found) = layout(vb, "decoder");
            assert_eq!(found, names, "{name}");
            assert_eq!(vb.prefix(), if nested { "vae.decoder" } else { "decoder" });
        }
        Ok(())
    }
}
