//! The reconstruction loss of the visual tokenizer: encodes a picture as bits and decodes them again.
//!
//! A decoder may draw larger pictures than the encoder reads. The result is then averaged to the size of the original, so that
//! the loss is that of the bits, and decoders of different sizes can be compared.

use candle_core::{DType, Device};

use echogen_checkpoint::bundle::{Bundle, BundleError, Network};
use echogen_imaging::{RgbImage, from_unit_tensor, to_unit_tensor};
use echogen_models::{
    echogen::Schedule,
    layers::resize::resize_area,
    visual_tokenizer::{TokenizerConfig, TokenizerDecoder, TokenizerEncoder, is_leftover, quantise},
};

/// The round trip failed.
#[derive(Debug, thiserror::Error)]
pub enum RoundTripError {
    /// The bundle is incomplete or malformed, or its weights do not fit.
    #[error(transparent)]
    Bundle(Box<BundleError>),
    /// A tensor operation failed.
    #[error("cannot run the visual tokenizer")]
    Network(#[from] candle_core::Error),
}

/// The encoder and decoder of a bundle's visual tokenizer.
#[derive(Debug, Clone)]
pub struct RoundTrip {
    encoder: TokenizerEncoder,
    decoder: TokenizerDecoder,
    /// Pixels of an encoded picture per token along one side.
    patch_size: usize,
}

impl RoundTrip {
    /// Loads encoder and decoder in float32. Returns `None` if the checkpoint contains only the decoder.
    ///
    /// # Errors
    ///
    /// If the bundle lacks the checkpoint, or the checkpoint does not fit.
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
                patch_size: config.encoder_patch_size(),
            })
        });
        Ok(Some(both.map_err(faulty)?))
    }

    /// Returns (height, width) in pixels of the pictures that the encoder reads for a schedule.
    pub fn pixels(&self, schedule: &Schedule) -> (usize, usize) {
        let (height, width) = schedule.last();
        (height * self.patch_size, width * self.patch_size)
    }

    /// Returns the reconstruction of a picture, in the picture's size, which must be [`RoundTrip::pixels`].
    ///
    /// # Errors
    ///
    /// If the picture has another size, or a tensor operation fails.
    pub fn picture(&self, picture: &RgbImage, schedule: &Schedule) -> Result<RgbImage, RoundTripError> {
        let latent = self.encoder.forward(&to_unit_tensor(picture)?.unsqueeze(0)?)?;
        let quantised = quantise(&latent, schedule.scales())?;
        let (height, width) = self.pixels(schedule);
        let decoded = resize_area(&self.decoder.forward(&quantised.summed)?, height, width)?;
        Ok(from_unit_tensor(&decoded.squeeze(0)?)?)
    }
}
