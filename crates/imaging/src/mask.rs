//! Subject masks: the subject's outline as one boolean per pixel.

use image::RgbImage;

use crate::error::ImageError;

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

    /// The mask as lengths of runs: row by row, pixels outside and inside in turn, beginning with those outside. The first
    /// run may be empty.
    pub fn runs(&self) -> Vec<u32> {
        let (mut runs, mut is_inside, mut length) = (Vec::new(), false, 0);
        for inside in &self.inside {
            if *inside != is_inside {
                runs.push(std::mem::take(&mut length));
                is_inside = *inside;
            }
            length += 1;
        }
        runs.push(length);
        runs
    }

    /// A mask with less detail that contains this one: pixels outside belong to the subject too where fewer than `pixels`
    /// of them are between two inside, in one row.
    #[must_use]
    pub fn without_gaps(&self, pixels: usize) -> Self {
        let mut closed = self.clone();
        for row in closed.inside.chunks_exact_mut(self.width.max(1) as usize) {
            let mut last = None;
            for x in 0..row.len() {
                if !row[x] {
                    continue;
                }
                if let Some(last) = last.filter(|last| x - last <= pixels) {
                    row[last..x].fill(true);
                }
                last = Some(x);
            }
        }
        closed
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

/// Paints every pixel outside a mask white, in place; the same pixels as [`white_outside_mask`] returns. The mask is of
/// `size` and given as [`SubjectMask::runs`].
///
/// # Errors
///
/// [`ImageError::MaskSize`] if the mask is of another size than the picture.
pub fn paint_outside_runs_white(picture: &mut RgbImage, size: (u32, u32), runs: &[u32]) -> Result<(), ImageError> {
    if size != picture.dimensions() {
        return Err(ImageError::MaskSize { mask: size, picture: picture.dimensions() });
    }
    let mut rest: &mut [u8] = picture;
    for (index, run) in runs.iter().enumerate() {
        let bytes = (*run as usize).saturating_mul(3).min(rest.len());
        let (pixels, after) = rest.split_at_mut(bytes);
        if index % 2 == 0 {
            pixels.fill(255);
        }
        rest = after;
    }
    Ok(())
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

    /// A mask of dots and blots, different for each seed.
    fn blots(width: u32, height: u32, seed: u32) -> SubjectMask {
        let inside = |at: u32| (at / 3 + seed).wrapping_mul(0x9e37_79b9) >> 30 == 0 || at % 17 == seed % 17;
        SubjectMask::new(width, height, (0..width * height).map(inside).collect()).unwrap()
    }

    #[test]
    fn runs_paint_the_same_pixels_as_the_mask() {
        let whole = SubjectMask::new(2, 2, vec![true; 4]).unwrap();
        assert_eq!((whole.runs(), SubjectMask::new(2, 2, vec![false; 4]).unwrap().runs()), (vec![0, 4], vec![4]));
        for seed in 0..20 {
            let (width, height) = (7 + seed, 9);
            let mask = blots(width, height, seed);
            let mut picture = RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7]));
            let expected = white_outside_mask(&picture, &mask);
            assert_eq!(mask.runs().iter().sum::<u32>(), width * height);
            paint_outside_runs_white(&mut picture, (width, height), &mask.runs()).unwrap();
            assert_eq!(picture, expected, "{seed}");
        }
        let mut picture = RgbImage::new(4, 2);
        let error = paint_outside_runs_white(&mut picture, (2, 4), &[8]).unwrap_err();
        assert_eq!(error.to_string(), "mask is of 2 x 4 pixels, the picture of 4 x 2; send the task's job again");
        paint_outside_runs_white(&mut picture, (4, 2), &[u32::MAX, 9]).expect("runs beyond the picture paint no more");
    }

    #[test]
    fn a_mask_without_gaps_contains_the_mask_and_nothing_outside_its_rows_ends() {
        let row = |text: &str| text.chars().map(|c| c == '#').collect::<Vec<_>>();
        let mask = SubjectMask::new(10, 2, row(".#.#..#..#......#...")).unwrap();
        assert_eq!(mask.without_gaps(1), mask);
        assert_eq!(mask.without_gaps(2).inside, row(".###..#..#......#..."));
        assert_eq!(mask.without_gaps(3).inside, row(".#########......#..."));
        for seed in 0..20 {
            let (mask, closed) = (blots(12, 9, seed), blots(12, 9, seed).without_gaps(4));
            assert!((0..12).all(|x| (0..9).all(|y| closed.contains(x, y) || !mask.contains(x, y))));
            assert!(closed.runs().len() <= mask.runs().len());
        }
    }
}
