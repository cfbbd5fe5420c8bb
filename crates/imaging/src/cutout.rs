//! Cut-outs by bounding box: everything outside the box is painted white.

use image::RgbImage;

use crate::error::ImageError;

/// A rectangle in pixels of a picture. `right` and `bottom` are exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBox {
    /// First column.
    pub left: u32,
    /// First row.
    pub top: u32,
    /// One past the last column.
    pub right: u32,
    /// One past the last row.
    pub bottom: u32,
}

impl PixelBox {
    /// Checks that the box has an area and lies within a picture of `width` x `height` pixels.
    ///
    /// # Errors
    ///
    /// [`ImageError::EmptyBox`] if it has no area, [`ImageError::BoxOutside`] if it leaves the picture.
    pub fn check(&self, width: u32, height: u32) -> Result<(), ImageError> {
        let Self { left, top, right, bottom } = *self;
        if left >= right || top >= bottom {
            return Err(ImageError::EmptyBox { left, top, right, bottom });
        }
        if right > width || bottom > height {
            return Err(ImageError::BoxOutside { right, bottom, width, height });
        }
        Ok(())
    }
}

/// Returns a copy of the picture in which every pixel outside the box is white. The size does not change.
///
/// # Errors
///
/// [`ImageError::EmptyBox`] or [`ImageError::BoxOutside`], see [`PixelBox::check`].
pub fn white_outside(picture: &RgbImage, area: PixelBox) -> Result<RgbImage, ImageError> {
    let (width, height) = picture.dimensions();
    area.check(width, height)?;
    let mut result = RgbImage::from_pixel(width, height, image::Rgb([255; 3]));
    let stride = width as usize * 3;
    let columns = area.left as usize * 3..area.right as usize * 3;
    let rows = picture.as_raw().chunks_exact(stride).zip(result.chunks_exact_mut(stride));
    for (from, to) in rows.skip(area.top as usize).take((area.bottom - area.top) as usize) {
        to[columns.clone()].copy_from_slice(&from[columns.clone()]);
    }
    Ok(result)
}

/// Paints every pixel outside the box white, in place; the same pixels as [`white_outside`] returns.
///
/// # Errors
///
/// [`ImageError::EmptyBox`] or [`ImageError::BoxOutside`], see [`PixelBox::check`].
pub fn paint_outside_white(picture: &mut RgbImage, area: PixelBox) -> Result<(), ImageError> {
    let (width, height) = picture.dimensions();
    area.check(width, height)?;
    let (left, right) = (area.left as usize * 3, area.right as usize * 3);
    for (y, row) in (0..).zip(picture.chunks_exact_mut(width as usize * 3)) {
        if (area.top..area.bottom).contains(&y) {
            row[..left].fill(255);
            row[right..].fill(255);
        } else {
            row.fill(255);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> RgbImage {
        RgbImage::from_fn(5, 4, |x, y| image::Rgb([x as u8, y as u8, 7]))
    }

    #[test]
    fn the_inside_stays_and_the_outside_turns_white() {
        let area = PixelBox { left: 1, top: 2, right: 4, bottom: 3 };
        let result = white_outside(&picture(), area).unwrap();
        for (x, y, pixel) in result.enumerate_pixels() {
            let inside = (1..4).contains(&x) && y == 2;
            assert_eq!(pixel.0, if inside { [x as u8, y as u8, 7] } else { [255; 3] }, "{x} {y}");
        }
        let mut painted = picture();
        paint_outside_white(&mut painted, area).unwrap();
        assert_eq!(painted, result);
    }

    #[test]
    fn the_whole_picture_is_a_box_too() {
        let area = PixelBox { left: 0, top: 0, right: 5, bottom: 4 };
        assert_eq!(white_outside(&picture(), area).unwrap(), picture());
        let mut painted = picture();
        paint_outside_white(&mut painted, area).unwrap();
        assert_eq!(painted, picture());
    }

    #[test]
    fn boxes_without_area_or_outside_are_refused_with_numbers() {
        let error = |left, top, right, bottom| {
            white_outside(&picture(), PixelBox { left, top, right, bottom }).unwrap_err().to_string()
        };
        assert!(error(2, 1, 2, 3).contains("from (2, 1) to (2, 3) is empty"));
        assert!(error(3, 1, 2, 3).contains("is empty"));
        assert!(error(0, 4, 5, 4).contains("is empty"));
        assert!(error(0, 0, 6, 4).contains("ends at (6, 4), outside the picture of 5 x 4"));
        assert!(error(0, 0, 5, 5).contains("outside the picture"));
        assert!(error(u32::MAX - 1, 0, u32::MAX, 1).contains("outside the picture"));
    }
}
