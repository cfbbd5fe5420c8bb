//! Subject masks: the subject's outline as one boolean per pixel.

use image::RgbImage;

/// Which pixels of a picture belong to the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectMask {
    width: u32,
    height: u32,
    /// Row-major, `width * height` entries.
    inside: Vec<bool>,
}

impl SubjectMask {
    /// Creates a mask from row-major pixels. Returns `None` unless `inside` has `width * height` entries.
    pub fn new(width: u32, height: u32, inside: Vec<bool>) -> Option<Self> {
        (inside.len() == width as usize * height as usize).then_some(Self { width, height, inside })
    }

    /// Whether a pixel belongs to the subject. Pixels outside the mask do not.
    pub fn contains(&self, x: u32, y: u32) -> bool {
        let within = x < self.width && y < self.height;
        within && self.inside[y as usize * self.width as usize + x as usize]
    }

    /// Whether no pixel belongs to the subject.
    pub fn is_empty(&self) -> bool {
        !self.inside.contains(&true)
    }

    /// Whether a pixel belongs to the subject and at least one of its four neighbours does not.
    pub fn is_edge(&self, x: u32, y: u32) -> bool {
        let around = [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)];
        self.contains(x, y) && around.iter().any(|(x, y)| !self.contains(*x, *y))
    }
}

/// Returns a copy of the picture in which every pixel outside the mask is white. The size does not change.
pub fn white_outside_mask(picture: &RgbImage, mask: &SubjectMask) -> RgbImage {
    let (width, height) = picture.dimensions();
    let white = image::Rgb([255; 3]);
    RgbImage::from_fn(width, height, |x, y| if mask.contains(x, y) { *picture.get_pixel(x, y) } else { white })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outside_of_a_mask_turns_white() {
        let mask = SubjectMask::new(3, 2, vec![false, true, false, true, true, false]).unwrap();
        let picture = RgbImage::from_pixel(4, 2, image::Rgb([1, 2, 3]));
        let cut = white_outside_mask(&picture, &mask);
        for (x, y, pixel) in cut.enumerate_pixels() {
            assert_eq!(pixel.0 == [1, 2, 3], mask.contains(x, y), "{x} {y}");
        }
        assert!(!mask.is_empty() && SubjectMask::new(1, 1, vec![false]).unwrap().is_empty());
        assert!(SubjectMask::new(3, 2, vec![true]).is_none());
    }
}
