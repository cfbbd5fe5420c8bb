//! The subject masker: SAM with its picture preprocessing.

use candle_core::Device;
use image::RgbImage;

use crate::sam::{Sam, SamPicture, SamPictureError, SamPrompt};
use echogen_imaging::{ImageError, PixelBox, SubjectMask};

/// Segmentation failed.
#[derive(Debug, thiserror::Error)]
pub enum MaskerError {
    /// The picture or the box cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The picture cannot be preprocessed.
    #[error(transparent)]
    Picture(#[from] SamPictureError),
    /// A tensor operation failed.
    #[error("cannot run SAM")]
    Network(#[from] candle_core::Error),
}

/// Segments subjects.
#[derive(Debug)]
pub struct SubjectMasker {
    network: Sam,
}

impl SubjectMasker {
    /// Creates a masker from a network.
    pub fn new(network: Sam) -> Self {
        Self { network }
    }

    /// Segments the object in a box. A box is an unambiguous prompt, so SAM's single-mask output is used.
    ///
    /// # Errors
    ///
    /// If the box leaves the picture, or a tensor operation fails.
    pub fn outline(&self, picture: &RgbImage, area: PixelBox) -> Result<SubjectMask, MaskerError> {
        let (width, height) = picture.dimensions();
        area.check(width, height)?;
        let prepared = SamPicture::new(picture, self.network.config().vision_config.image_size)?;
        let pictures = self.network.embed(&prepared.pixel_values)?;
        let no_picture = || candle_core::Error::Msg("SAM gave no embedding".to_owned());
        let corners = [area.left, area.top, area.right, area.bottom].map(|at| at as f32);
        let prompt = SamPrompt { bounding_box: Some(prepared.scaled_box(corners)), points: Vec::new() };
        let masks = self.network.masks(pictures.first().ok_or_else(no_picture)?, &prompt)?;
        let logits = prepared.unscaled_mask(&masks.masks.get(0)?)?.to_device(&Device::Cpu)?;
        let inside = logits.flatten_all()?.to_vec1::<f32>()?.into_iter().map(|logit| logit > 0.0).collect();
        SubjectMask::new(width, height, inside).ok_or_else(|| no_picture().into())
    }
}
