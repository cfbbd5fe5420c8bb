//! The KL autoencoder of FLUX.1: encodes pictures as 16-channel latents of an eighth of their size, and decodes them.
//!
//! Reference: `AutoencoderKL` of the diffusers library and `autoencoder.py` of black-forest-labs/flux. Both naming
//! schemes are supported: that of diffusers (`encoder.down_blocks.0.resnets.0…`, attention as linear layers under
//! either of its two sets of names) and that of `ae.safetensors` (`encoder.down.0.block.0…`, attention as 1x1
//! convolutions). candle-transformers' FLUX autoencoder is not used: it reads the second scheme only, and its encoder
//! draws the posterior's noise from the device's unseeded generator. Here the encoder returns the [`Posterior`], and
//! the caller provides the noise. EchoGen uses the raw sample; FLUX itself shifts and scales it
//! ([`FluxVaeConfig::normalise`]).

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

use crate::layers::conv::{Names, PyramidConfig, PyramidDecoder, PyramidEncoder, Stage};

/// Configuration, from diffusers' `config.json` or from the parameters of the original code (`ch`, `ch_mult`, …).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub struct FluxVaeConfig {
    /// Number of channels of the encoder's input.
    pub in_channels: usize,
    /// Number of channels of the decoder's output.
    pub out_channels: usize,
    /// Width of each level, full resolution first. Each level but the last halves height and width.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latent.
    pub latent_channels: usize,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// Whether the middle blocks have attention between them.
    pub mid_block_add_attention: bool,
    /// Scale of [`FluxVaeConfig::normalise`].
    pub scaling_factor: f64,
    /// Shift of [`FluxVaeConfig::normalise`].
    pub shift_factor: f64,
}

/// Epsilon of all norms; neither configuration format has a field for it.
const NORM_EPS: f64 = 1e-6;

impl FluxVaeConfig {
    /// The published autoencoder of FLUX.1-dev and FLUX.1-schnell.
    pub fn flux1() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            latent_channels: 16,
            norm_num_groups: 32,
            mid_block_add_attention: true,
            scaling_factor: 0.3611,
            shift_factor: 0.1159,
        }
    }

    /// Normalises a latent for FLUX's transformer: (latent − shift) · scale.
    pub fn normalise(&self, latent: &Tensor) -> Result<Tensor> {
        latent.affine(self.scaling_factor, -self.shift_factor * self.scaling_factor)
    }

    /// The inverse of [`FluxVaeConfig::normalise`].
    pub fn denormalise(&self, latent: &Tensor) -> Result<Tensor> {
        latent.affine(1.0 / self.scaling_factor, self.shift_factor)
    }

    fn pyramid(&self, image_channels: usize, latent_channels: usize) -> PyramidConfig {
        PyramidConfig {
            image_channels,
            latent_channels,
            widths: self.block_out_channels.clone(),
            stem: self.block_out_channels[0],
            res_blocks: self.layers_per_block,
            attention: self.mid_block_add_attention,
            norm_groups: self.norm_num_groups,
            odd_norm_groups: self.norm_num_groups,
            norm_eps: NORM_EPS,
        }
    }
}

/// The configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum FluxVaeConfigError {
    /// Fields are missing or of the wrong type.
    #[error("autoencoder configuration: {0}")]
    Fields(#[from] serde_json::Error),
    /// Levels, groups or channels are missing or zero.
    #[error("autoencoder configuration: give at least one level, and no width, group or channel count of zero")]
    Empty,
    /// The network has layers that FLUX's autoencoder lacks.
    #[error("autoencoder configuration: {0} must be false; FLUX's autoencoder has no such layer")]
    QuantConv(&'static str),
}

/// diffusers' `config.json`, with the defaults of that library.
#[derive(Deserialize)]
struct DiffusersConfig {
    in_channels: usize,
    out_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    latent_channels: usize,
    #[serde(default = "published_groups")]
    norm_num_groups: usize,
    #[serde(default = "yes")]
    mid_block_add_attention: bool,
    #[serde(default)]
    use_quant_conv: bool,
    #[serde(default)]
    use_post_quant_conv: bool,
    scaling_factor: f64,
    shift_factor: f64,
}

/// The parameters of the original code, in which the number of groups is a constant.
#[derive(Deserialize)]
struct OriginalConfig {
    in_channels: usize,
    out_ch: usize,
    ch: usize,
    ch_mult: Vec<usize>,
    num_res_blocks: usize,
    z_channels: usize,
    #[serde(default = "published_groups")]
    norm_groups: usize,
    scale_factor: f64,
    shift_factor: f64,
}

fn published_groups() -> usize {
    32
}

fn yes() -> bool {
    true
}

impl TryFrom<serde_json::Value> for FluxVaeConfig {
    type Error = FluxVaeConfigError;

    fn try_from(value: serde_json::Value) -> std::result::Result<Self, Self::Error> {
        let config = if value.get("ch_mult").is_some() {
            Self::from(serde_json::from_value::<OriginalConfig>(value)?)
        } else {
            Self::try_from(serde_json::from_value::<DiffusersConfig>(value)?)?
        };
        let counts = [config.in_channels, config.out_channels, config.latent_channels, config.norm_num_groups];
        if config.block_out_channels.is_empty() || config.block_out_channels.iter().chain(&counts).any(|&n| n == 0) {
            return Err(FluxVaeConfigError::Empty);
        }
        Ok(config)
    }
}

impl TryFrom<DiffusersConfig> for FluxVaeConfig {
    type Error = FluxVaeConfigError;

    fn try_from(config: DiffusersConfig) -> std::result::Result<Self, Self::Error> {
        if config.use_quant_conv {
            return Err(FluxVaeConfigError::QuantConv("use_quant_conv"));
        }
        if config.use_post_quant_conv {
            return Err(FluxVaeConfigError::QuantConv("use_post_quant_conv"));
        }
        Ok(Self {
            in_channels: config.in_channels,
            out_channels: config.out_channels,
            block_out_channels: config.block_out_channels,
            layers_per_block: config.layers_per_block,
            latent_channels: config.latent_channels,
            norm_num_groups: config.norm_num_groups,
            mid_block_add_attention: config.mid_block_add_attention,
            scaling_factor: config.scaling_factor,
            shift_factor: config.shift_factor,
        })
    }
}

impl From<OriginalConfig> for FluxVaeConfig {
    fn from(config: OriginalConfig) -> Self {
        Self {
            in_channels: config.in_channels,
            out_channels: config.out_ch,
            block_out_channels: config.ch_mult.iter().map(|factor| config.ch.saturating_mul(*factor)).collect(),
            layers_per_block: config.num_res_blocks,
            latent_channels: config.z_channels,
            norm_num_groups: config.norm_groups,
            mid_block_add_attention: true,
            scaling_factor: config.scale_factor,
            shift_factor: config.shift_factor,
        }
    }
}

/// The distribution of a picture's latent: independent normal distributions.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// (batch, latent channels, height / 8, width / 8).
    pub mean: Tensor,
    /// Logarithm of the variance, in [-30, 20]; same shape as the mean.
    pub logvar: Tensor,
}

impl Posterior {
    /// Returns mean + standard deviation · noise. `noise` is drawn by the caller from the standard normal distribution
    /// and has the mean's shape.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        &self.mean + self.logvar.affine(0.5, 0.0)?.exp()?.mul(noise)?
    }
}

/// The encoder.
#[derive(Debug, Clone)]
pub struct FluxVaeEncoder {
    encoder: PyramidEncoder,
}

impl FluxVaeEncoder {
    /// Loads the tensors below `encoder` of the autoencoder's checkpoint, in either naming scheme.
    pub fn new(vb: VarBuilder, config: &FluxVaeConfig) -> Result<Self> {
        let names = names(&vb, "encoder.down.0.block.0.conv1.weight");
        let config = config.pyramid(config.in_channels, 2 * config.latent_channels);
        Ok(Self { encoder: PyramidEncoder::new(&vb.pp("encoder"), &config, names)? })
    }

    /// Whether a tensor of the autoencoder's checkpoint does not belong to the encoder.
    pub fn ignores(name: &str) -> bool {
        !name.starts_with("encoder.")
    }

    /// Encodes pictures (batch, 3, height, width) in [-1, 1].
    pub fn forward(&self, images: &Tensor) -> Result<Posterior> {
        self.forward_with_tap(images, |_, _| Ok(()))
    }

    /// As [`FluxVaeEncoder::forward`]; `tap` is called with the feature map after every level and after the middle
    /// blocks.
    pub fn forward_with_tap(
        &self,
        images: &Tensor,
        tap: impl FnMut(Stage, &Tensor) -> Result<()>,
    ) -> Result<Posterior> {
        let moments = self.encoder.forward_with_tap(images, tap)?; // (batch, 2 · latent, height / 8, width / 8)
        let latent = moments.dim(1)? / 2;
        let mean = moments.narrow(1, 0, latent)?.contiguous()?;
        let logvar = moments.narrow(1, latent, latent)?.clamp(-30.0, 20.0)?;
        Ok(Posterior { mean, logvar })
    }
}

/// The decoder.
#[derive(Debug, Clone)]
pub struct FluxVaeDecoder {
    decoder: PyramidDecoder,
}

impl FluxVaeDecoder {
    /// Loads the tensors below `decoder` of the autoencoder's checkpoint, in either naming scheme.
    pub fn new(vb: VarBuilder, config: &FluxVaeConfig) -> Result<Self> {
        let names = names(&vb, "decoder.up.0.block.0.conv1.weight");
        let config = config.pyramid(config.out_channels, config.latent_channels);
        Ok(Self { decoder: PyramidDecoder::new(&vb.pp("decoder"), &config, names)? })
    }

    /// Whether a tensor of the autoencoder's checkpoint does not belong to the decoder.
    pub fn ignores(name: &str) -> bool {
        !name.starts_with("decoder.")
    }

    /// Decodes latents (batch, latent channels, height, width), not normalised, to pictures (batch, 3, 8 · height, 8 ·
    /// width), approximately in [-1, 1] and not clipped.
    pub fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        self.forward_with_tap(latents, |_, _| Ok(()))
    }

    /// As [`FluxVaeDecoder::forward`]; `tap` is called with the feature map after the middle blocks and after every
    /// level, lowest resolution first.
    pub fn forward_with_tap(&self, latents: &Tensor, tap: impl FnMut(Stage, &Tensor) -> Result<()>) -> Result<Tensor> {
        self.decoder.forward_with_tap(latents, tap)
    }
}

/// Detects the naming scheme by a tensor that only `ae.safetensors` has.
fn names(vb: &VarBuilder, telling: &str) -> Names {
    if vb.contains_tensor(telling) { Names::Levels } else { Names::Diffusers }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn both_configuration_formats_mean_the_same() {
        let diffusers = serde_json::json!({
            "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "in_channels": 3,
            "latent_channels": 16, "layers_per_block": 2, "norm_num_groups": 32, "out_channels": 3,
            "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": false, "use_post_quant_conv": false
        });
        let original = serde_json::json!({
            "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "z_channels": 16,
            "scale_factor": 0.3611, "shift_factor": 0.1159
        });
        for value in [diffusers, original] {
            assert_eq!(serde_json::from_value::<FluxVaeConfig>(value).unwrap(), FluxVaeConfig::flux1());
        }
        let written = serde_json::to_value(FluxVaeConfig::flux1()).unwrap();
        assert_eq!(serde_json::from_value::<FluxVaeConfig>(written).unwrap(), FluxVaeConfig::flux1());
    }

    #[test]
    fn unusable_configurations_are_refused() {
        let mut config = serde_json::to_value(FluxVaeConfig::flux1()).unwrap();
        for (field, value) in [
            ("block_out_channels", serde_json::json!([])),
            ("norm_num_groups", serde_json::json!(0)),
            ("use_quant_conv", serde_json::json!(true)),
        ] {
            let before = config[field].clone();
            config[field] = value;
            assert!(serde_json::from_value::<FluxVaeConfig>(config.clone()).is_err(), "{field}");
            config[field] = before;
        }
    }

    #[test]
    fn sample_spreads_by_the_standard_deviation() -> Result<()> {
        let mean = Tensor::full(3f32, (1, 1, 1, 2), &Device::Cpu)?;
        let logvar = Tensor::full(4f32.ln(), (1, 1, 1, 2), &Device::Cpu)?;
        let noise = Tensor::new(&[[[[1f32, -0.5]]]], &Device::Cpu)?;
        let sample = Posterior { mean, logvar }.sample(&noise)?.flatten_all()?.to_vec1::<f32>()?;
        assert!((sample[0] - 5.0).abs() < 1e-6 && (sample[1] - 2.0).abs() < 1e-6, "{sample:?}");
        Ok(())
    }

    #[test]
    fn normalising_can_be_undone() -> Result<()> {
        let config = FluxVaeConfig::flux1();
        let latent = Tensor::new(&[1.1159f64, -2.0], &Device::Cpu)?;
        let normal = config.normalise(&latent)?;
        assert!((normal.to_vec1::<f64>()?[0] - 0.3611).abs() < 1e-12);
        let difference = (config.denormalise(&normal)? - latent)?.abs()?.to_vec1::<f64>()?;
        assert!(difference.iter().all(|d| *d < 1e-12));
        Ok(())
    }

    #[test]
    fn other_dtypes_take_the_plain_way() -> Result<()> {
        let config = FluxVaeConfig {
            block_out_channels: vec![8, 16],
            layers_per_block: 1,
            latent_channels: 4,
            norm_num_groups: 4,
            ..FluxVaeConfig::flux1()
        };
        let vb = VarBuilder::zeros(DType::F64, &Device::Cpu);
        let images = Tensor::ones((1, 3, 10, 6), DType::F64, &Device::Cpu)?;
        let posterior = FluxVaeEncoder::new(vb.clone(), &config)?.forward(&images)?;
        assert_eq!(posterior.mean.dims(), [1, 4, 5, 3]);
        assert_eq!(FluxVaeDecoder::new(vb, &config)?.forward(&posterior.mean)?.dims(), [1, 3, 10, 6]);
        Ok(())
    }
}
