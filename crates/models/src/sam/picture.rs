//! Preprocessing of pictures as in the published processor, and conversion of masks back to the picture's size.

use candle_core::{Device, Result, Tensor};
use image::RgbImage;

use crate::layers::resize::resize_bilinear;
use echogen_imaging::{Filter, ImageError, resize};

/// ImageNet's channel means (red, green, blue), for values in [0, 1].
const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// ImageNet's channel standard deviations.
const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// A picture preprocessed for SAM: the longest side resized to the square's side, zero-padded to the right and below.
#[derive(Debug, Clone)]
pub struct SamPicture {
    /// (1, 3, size, size)
    pub pixel_values: Tensor,
    /// (Height, width) of the resized picture within the square.
    pub resized: (usize, usize),
    /// (Height, width) of the original picture.
    pub original: (usize, usize),
}

impl SamPicture {
    /// Resizes and normalises as the published processor.
    ///
    /// # Errors
    ///
    /// If the picture has no pixels, or is so thin that a resized side has none.
    pub fn new(picture: &RgbImage, image_size: usize) -> std::result::Result<Self, SamPictureError> {
        let (width, height) = picture.dimensions();
        let scale = image_size as f64 / f64::from(width.max(height).max(1));
        let scaled = |side: u32| ((f64::from(side) * scale + 0.5) as u32).max(1);
        let resized = resize(picture, scaled(height), scaled(width), Filter::Bilinear)?;
        let (rows, columns) = (resized.height() as usize, resized.width() as usize);
        let mut values = vec![0f32; 3 * image_size * image_size];
        for (x, y, pixel) in resized.enumerate_pixels() {
            for channel in 0..3 {
                let value = (f32::from(pixel.0[channel]) / 255.0 - IMAGENET_MEAN[channel]) / IMAGENET_STD[channel];
                values[(channel * image_size + y as usize) * image_size + x as usize] = value;
            }
        }
        Ok(Self {
            pixel_values: Tensor::from_vec(values, (1, 3, image_size, image_size), &Device::Cpu)?,
            resized: (rows, columns),
            original: (height as usize, width as usize),
        })
    }

    /// Converts a box from pixels of the picture to pixels of the square.
    pub fn scaled_box(&self, [left, top, right, bottom]: [f32; 4]) -> [f32; 4] {
        let across = self.resized.1 as f32 / self.original.1.max(1) as f32;
        let down = self.resized.0 as f32 / self.original.0.max(1) as f32;
        [left * across, top * down, right * across, bottom * down]
    }

    /// Converts a mask's logits (height, width) to (picture height, picture width): upscaled to the square, cropped to
    /// the resized picture, resized to the original size; bilinear both times.
    pub fn unscaled_mask(&self, mask: &Tensor) -> Result<Tensor> {
        let size = self.pixel_values.dim(2)?;
        let mask = resize_bilinear(&mask.unsqueeze(0)?.unsqueeze(0)?, size, size)?;
        let mask = mask.narrow(2, 0, self.resized.0)?.narrow(3, 0, self.resized.1)?;
        resize_bilinear(&mask, self.original.0, self.original.1)?.squeeze(0)?.squeeze(0)
    }
}

/// A picture cannot be preprocessed.
#[derive(Debug, thiserror::Error)]
pub enum SamPictureError {
    /// The picture cannot be resized.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A tensor operation failed.
    #[error("cannot make a tensor of the picture")]
    Tensor(#[from] candle_core::Error),
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn pictures_keep_their_shape_in_the_square() {
        let picture = SamPicture::new(&RgbImage::from_pixel(300, 200, image::Rgb([255; 3])), 64).unwrap();
        assert_eq!(picture.resized, (43, 64));
        assert_eq!(picture.scaled_box([0.0, 0.0, 300.0, 200.0]), [0.0, 0.0, 64.0, 43.0]);
        let red = picture.pixel_values.get(0).unwrap().get(0).unwrap().to_vec2::<f32>().unwrap();
        assert!((red[42][63] - (1.0 - 0.485) / 0.229).abs() < 1e-6 && red[43][0] == 0.0);
        let mask = picture.unscaled_mask(&Tensor::ones((16, 16), DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(mask.dims(), [200, 300]);
    }

    #[test]
    fn thin_pictures_keep_a_pixel() {
        let picture = SamPicture::new(&RgbImage::from_pixel(1, 5_000, image::Rgb([9; 3])), 64).unwrap();
        assert_eq!(picture.resized, (64, 1));
        assert!(SamPicture::new(&RgbImage::new(0, 3), 64).is_err());
    }
}
