//! Conversion between pictures and tensors, as EchoGen's `transform` and its inference script do it.

use candle_core::{Device, Tensor};
use image::RgbImage;

use crate::error::ImageError;
use crate::resize::{Filter, Span, resize_part};

/// Returns the (height, width) to which a picture is resized so that it covers `height` x `width`.
///
/// Computed in f64 and truncated to integers, in the published code's order of operations. Where truncation would make
/// a side one pixel shorter than the target (the published code then returns a wrong shape), the target's side is
/// used.
pub fn covering_size(picture: &RgbImage, height: u32, width: u32) -> (u32, u32) {
    let ratio = f64::from(picture.width()) / f64::from(picture.height());
    let target_ratio = f64::from(width) / f64::from(height);
    if ratio <= target_ratio {
        (((f64::from(width) / ratio) as u32).max(height), width)
    } else {
        (height, ((ratio * f64::from(height)) as u32).max(width))
    }
}

/// Resizes the picture with Lanczos so that it covers `height` x `width`, and crops the centre.
///
/// Only the cropped part is computed, so a strip of 1 x 5,000 pixels costs no more than any other picture.
///
/// # Errors
///
/// [`ImageError::NoPixels`] if the picture or the target has no pixels.
pub fn cover_and_crop(picture: &RgbImage, height: u32, width: u32) -> Result<RgbImage, ImageError> {
    let (full_height, full_width) = covering_size(picture, height, width);
    let middle = |total: u32, count: u32| Span { total, first: (total - count) / 2, count };
    resize_part(picture, middle(full_height, height), middle(full_width, width), Filter::Lanczos)
}

/// Resizes the picture so that its shorter side has `shorter` pixels, and crops `crop` x `crop` pixels at the centre.
/// Sizes and rounding are those of torchvision's `Resize` and `CenterCrop`. If `shorter` is less than `crop`, `crop`
/// is used in its place.
///
/// As in [`cover_and_crop`], only the cropped part is computed.
///
/// # Errors
///
/// [`ImageError::NoPixels`] if the picture or the crop has no pixels.
pub fn shorter_side_and_crop(
    picture: &RgbImage,
    shorter: u32,
    crop: u32,
    filter: Filter,
) -> Result<RgbImage, ImageError> {
    let (width, height) = picture.dimensions();
    let (shorter, side) = (shorter.max(crop), width.min(height).max(1));
    let resized = |length: u32| (u64::from(shorter) * u64::from(length) / u64::from(side)) as u32;
    let middle = |total: u32| {
        let spare = total.saturating_sub(crop);
        // Python's `round` rounds halves to even.
        Span { total, first: spare / 2 + u32::from(spare % 4 == 3), count: crop }
    };
    resize_part(picture, middle(resized(height)), middle(resized(width)), filter)
}

/// Converts the picture to a tensor (3, height, width), f32, with values in [-1, 1].
///
/// # Errors
///
/// If the picture has no pixels.
pub fn to_unit_tensor(picture: &RgbImage) -> candle_core::Result<Tensor> {
    let pixels = picture.as_raw();
    // Divides by 255 before doubling, as torchvision's `to_tensor` and the published code do; the order affects
    // rounding.
    let unit = |byte: u8| {
        let x = f32::from(byte) / 255.0;
        x + x - 1.0
    };
    let planes: Vec<f32> = (0..3).flat_map(|c| pixels.iter().skip(c).step_by(3).map(move |byte| unit(*byte))).collect();
    Tensor::from_vec(planes, (3, picture.height() as usize, picture.width() as usize), &Device::Cpu)
}

/// Converts a tensor (3, height, width) with values in [-1, 1] to a picture. Values are clamped, then truncated (not
/// rounded) to bytes, as in the published inference script.
///
/// # Errors
///
/// If the tensor has another shape or cannot be read.
pub fn from_unit_tensor(xs: &Tensor) -> candle_core::Result<RgbImage> {
    let (channels, height, width) = xs.dims3()?;
    if channels != 3 {
        candle_core::bail!("a picture has 3 channels, this tensor has {channels}");
    }
    let planes = xs.to_device(&Device::Cpu)?.to_dtype(candle_core::DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let byte = |value: f32| ((value.clamp(-1.0, 1.0) + 1.0) * 0.5 * 255.0) as u8;
    let plane = height * width;
    let pixels = (0..plane).flat_map(|i| [0, 1, 2].map(|c| byte(planes[c * plane + i]))).collect();
    RgbImage::from_raw(width as u32, height as u32, pixels)
        .ok_or_else(|| candle_core::Error::Msg(format!("{height} x {width} pixels are too many")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 37) as u8, (y * 91) as u8, (x * y) as u8]))
    }

    #[test]
    fn sizes_are_those_that_the_published_code_computes() {
        // From the fixture's info.json: picture (width, height), target (height, width), resized (width, height).
        for (size, target, resized) in [
            ((110, 75), (256, 256), (375, 256)),
            ((97, 133), (256, 256), (256, 351)),
            ((171, 90), (48, 64), (91, 48)),
            ((120, 101), (48, 64), (64, 53)),
            ((88, 88), (48, 64), (64, 64)),
        ] {
            let picture = RgbImage::new(size.0, size.1);
            assert_eq!(covering_size(&picture, target.0, target.1), (resized.1, resized.0), "{size:?} {target:?}");
        }
    }

    #[test]
    fn rounding_never_leaves_the_picture_smaller_than_the_target() {
        // 105 / (105 / 107) is slightly less than 107, so truncation loses a row.
        let mut corrected = 0;
        for (width, height) in (1..120).flat_map(|w| (1..120).map(move |h| (w, h))) {
            let cut = (f64::from(width) / (f64::from(width) / f64::from(height))) as u32;
            corrected += u32::from(cut < height);
            let (full_height, full_width) = covering_size(&RgbImage::new(width, height), height, width);
            assert!(full_height >= height && full_width >= width, "{width} {height}");
        }
        assert!(corrected > 0);
    }

    #[test]
    fn the_crop_equals_the_middle_of_the_whole_resized_picture() {
        for (size, target) in [((50, 31), (20, 20)), ((31, 50), (64, 64)), ((40, 40), (24, 36)), ((64, 64), (64, 64))] {
            let picture = picture(size.0, size.1);
            let (height, width) = covering_size(&picture, target.0, target.1);
            let whole = super::super::resize(&picture, height, width, Filter::Lanczos).unwrap();
            let (x, y) = ((width - target.1) / 2, (height - target.0) / 2);
            let middle = image::imageops::crop_imm(&whole, x, y, target.1, target.0).to_image();
            assert_eq!(cover_and_crop(&picture, target.0, target.1).unwrap(), middle, "{size:?} {target:?}");
        }
    }

    /// Compares with Python's `round((total - crop) / 2.0)`, on pictures whose columns encode their index.
    #[test]
    fn the_middle_is_rounded_to_even_columns() {
        for (width, left) in [(8, 0), (9, 0), (10, 1), (11, 2), (12, 2), (13, 2), (14, 3), (15, 4)] {
            let picture = RgbImage::from_fn(width, 8, |x, _| image::Rgb([x as u8; 3]));
            let middle = shorter_side_and_crop(&picture, 8, 8, Filter::Bicubic).unwrap();
            assert_eq!((middle.dimensions(), middle.get_pixel(0, 0).0[0]), ((8, 8), left), "{width}");
        }
        // 5 x 7 to 6 x 8: the fraction is truncated.
        let grown = shorter_side_and_crop(&picture(5, 7), 6, 6, Filter::Bicubic).unwrap();
        let whole = super::super::resize(&picture(5, 7), 8, 6, Filter::Bicubic).unwrap();
        assert_eq!(grown, image::imageops::crop_imm(&whole, 0, 1, 6, 6).to_image());
        assert_eq!(shorter_side_and_crop(&picture(5, 7), 2, 6, Filter::Bicubic).unwrap(), grown);
        assert!(shorter_side_and_crop(&RgbImage::new(0, 5), 8, 8, Filter::Bicubic).is_err());
    }

    #[test]
    fn thin_strips_cost_no_more_than_other_pictures() {
        // Resized as a whole, the first would have 256 x 4,194,304 pixels, which is 3 GB.
        for (width, height) in [(1, 16_384), (16_384, 1), (1, 1)] {
            let result = cover_and_crop(&RgbImage::from_pixel(width, height, image::Rgb([9, 8, 7])), 256, 256).unwrap();
            assert!(result.dimensions() == (256, 256) && result.pixels().all(|p| p.0 == [9, 8, 7]));
        }
    }

    #[test]
    fn pictures_and_targets_without_pixels_are_refused() {
        assert!(cover_and_crop(&RgbImage::new(0, 5), 8, 8).is_err());
        assert!(cover_and_crop(&RgbImage::new(5, 0), 8, 8).is_err());
        assert!(cover_and_crop(&RgbImage::new(5, 5), 0, 8).is_err());
        assert!(cover_and_crop(&RgbImage::new(5, 5), 8, 0).is_err());
    }

    #[test]
    fn every_byte_survives_the_way_to_a_tensor_within_the_cut() {
        let picture = RgbImage::from_fn(16, 16, |x, y| image::Rgb([(y * 16 + x) as u8, 0, 255]));
        let tensor = to_unit_tensor(&picture).unwrap();
        assert_eq!(tensor.dims(), [3, 16, 16]);
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!((values[0], values[255], values[256], values[512]), (-1.0, 1.0, -1.0, 1.0));
        assert_eq!(values[51], 0.2 + 0.2 - 1.0);
        let back = from_unit_tensor(&tensor).unwrap();
        // Truncating instead of rounding may change a byte by one.
        assert!(back.iter().zip(picture.iter()).all(|(a, b)| a.abs_diff(*b) <= 1));
    }

    #[test]
    fn bytes_are_cut_and_values_outside_are_clamped() {
        let xs =
            Tensor::new(&[-7f32, 0.0, 0.999, 7.0, f32::NAN, 1.0], &Device::Cpu).unwrap().reshape((3, 1, 2)).unwrap();
        assert_eq!(from_unit_tensor(&xs).unwrap().as_raw(), &[0, 254, 0, 127, 255, 255]);
        assert!(from_unit_tensor(&xs.reshape((2, 1, 3)).unwrap()).is_err());
    }
}
