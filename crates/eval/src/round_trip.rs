//! What the visual tokenizer loses: a picture to bits and back, by both halves of it.

use candle_core::{DType, Device};

use echogen_checkpoint::bundle::{Bundle, BundleError, Network};
use echogen_imaging::{RgbImage, from_unit_tensor, to_unit_tensor};
use echogen_models::{
    echogen::Schedule,
    visual_tokenizer::{TokenizerConfig, TokenizerDecoder, TokenizerEncoder, is_leftover, quantise},
};

/// Why there is no way there and back.
#[derive(Debug, thiserror::Error)]
pub enum RoundTripError {
    /// The bundle is incomplete or malformed, or its weights do not fit.
    #[error(transparent)]
    Bundle(Box<BundleError>),
    /// The network failed.
    #[error("cannot run the visual tokenizer")]
    Network(#[from] candle_core::Error),
}

/// Both halves of a bundle's visual tokenizer.
#[derive(Debug, Clone)]
pub struct RoundTrip {
    encoder: TokenizerEncoder,
    decoder: TokenizerDecoder,
}

impl RoundTrip {
    /// Loads both halves, in float32; `None` where the checkpoint holds the decoder alone.
    ///
    /// # Errors
    ///
    /// If the bundle lacks the checkpoint, or it does not fit.
    pub fn load(bundle: &Bundle, device: &Device) -> Result<Option<Self>, RoundTripError> {
        let faulty = |error| RoundTripError::Bundle(Box::new(error));
        let config: TokenizerConfig = bundle.config(Network::VisualTokenizer).map_err(faulty)?;
        let checkpoint = bundle.checkpoint(Network::VisualTokenizer).map_err(faulty)?;
        if !checkpoint.names().any(|name| name.strip_prefix("vae.").unwrap_or(name).starts_with("encoder.")) {
            return Ok(None);
        }
        let both = bundle.load(Network::VisualTokenizer, (device, DType::F32), is_leftover, |vb| {
            Ok(Self {
                encoder: TokenizerEncoder::new(vb.clone(), &config)?,
                decoder: TokenizerDecoder::new(vb, &config)?,
            })
        });
        Ok(Some(both.map_err(faulty)?))
    }

    /// What is left of a picture whose size is the schedule's.
    ///
    /// # Errors
    ///
    /// If the picture has another size, or the network fails.
    pub fn picture(&self, picture: &RgbImage, schedule: &Schedule) -> Result<RgbImage, RoundTripError> {
        let latent = self.encoder.forward(&to_unit_tensor(picture)?.unsqueeze(0)?)?;
        let quantised = quantise(&latent, schedule.scales())?;
        Ok(from_unit_tensor(&self.decoder.forward(&quantised.summed)?.squeeze(0)?)?)
    }
}
