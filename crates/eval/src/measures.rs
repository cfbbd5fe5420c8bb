//! Metrics: cosine similarity, retrieval, IoU, PSNR, and means.

use echogen_imaging::RgbImage;

/// Returns the cosine similarity of two vectors; 0 if one has length zero.
pub(crate) fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let product: f32 = a.iter().zip(b).map(|(x, y)| x * y).sum();
    let lengths = length(a) * length(b);
    if lengths > 0.0 { product / lengths } else { 0.0 }
}

fn length(a: &[f32]) -> f32 {
    a.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// Returns the index of the gallery vector nearest to `query` by cosine, after subtracting the gallery's mean from
/// both.
pub(crate) fn nearest(query: &[f32], gallery: &[Vec<f32>]) -> Option<usize> {
    let mean = mean(gallery);
    let apart = |features: &[f32]| features.iter().zip(&mean).map(|(x, m)| x - m).collect::<Vec<_>>();
    let query = apart(query);
    let likeness: Vec<f32> = gallery.iter().map(|features| cosine(&query, &apart(features))).collect();
    (0..likeness.len()).max_by(|a, b| likeness[*a].total_cmp(&likeness[*b]))
}

fn mean(gallery: &[Vec<f32>]) -> Vec<f32> {
    let mut sum = vec![0.0; gallery.first().map_or(0, Vec::len)];
    for features in gallery {
        sum.iter_mut().zip(features).for_each(|(sum, x)| *sum += x);
    }
    sum.into_iter().map(|sum| sum / gallery.len() as f32).collect()
}

/// Returns the intersection over union (IoU) of two boxes (left, top, right, bottom).
pub(crate) fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let side = |from: f32, to: f32| (to - from).max(0.0);
    let area = |x: [f32; 4]| side(x[0], x[2]) * side(x[1], x[3]);
    let shared = side(a[0].max(b[0]), a[2].min(b[2])) * side(a[1].max(b[1]), a[3].min(b[3]));
    let covered = area(a) + area(b) - shared;
    if covered > 0.0 { shared / covered } else { 0.0 }
}

/// Returns the peak signal-to-noise ratio in decibels; identical pictures give 100.
pub(crate) fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    let square = |(x, y): (&u8, &u8)| (f64::from(*x) - f64::from(*y)).powi(2);
    let squares: f64 = a.as_raw().iter().zip(b.as_raw()).map(square).sum();
    let mean = squares / a.as_raw().len().max(1) as f64;
    if mean > 0.0 { (-10.0 * (mean / 255.0f64.powi(2)).log10()).min(100.0) } else { 100.0 }
}

/// Returns the share of true values; `None` if there are no values.
pub(crate) fn share(right: impl IntoIterator<Item = bool>) -> Option<f64> {
    average(right.into_iter().map(|right| f64::from(u8::from(right))))
}

/// Returns the mean; `None` if there are no values.
pub(crate) fn average(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.into_iter().fold((0u32, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / f64::from(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_found_in_spite_of_what_all_share() {
        let gallery = [vec![10.0, 1.0, 0.0], vec![10.0, 0.0, 1.0], vec![10.0, -1.0, -1.0]];
        assert_eq!(nearest(&[9.0, 0.1, 0.9], &gallery), Some(1));
        assert_eq!(nearest(&[9.0, 0.8, 0.2], &gallery), Some(0));
        assert_eq!(nearest(&[1.0], &[]), None);
    }

    #[test]
    fn boxes_share_what_they_share() {
        assert_eq!(overlap([0.0, 0.0, 2.0, 2.0], [1.0, 0.0, 3.0, 2.0]), 1.0 / 3.0);
        assert_eq!(overlap([0.0, 0.0, 1.0, 1.0], [2.0, 2.0, 3.0, 3.0]), 0.0);
        assert_eq!(overlap([0.0; 4], [0.0; 4]), 0.0);
    }

    #[test]
    fn loss_is_told_in_decibels() {
        let grey = |level| RgbImage::from_pixel(4, 4, [level; 3].into());
        assert!((psnr(&grey(100), &grey(110)) - 28.13).abs() < 0.01);
        assert_eq!(psnr(&grey(7), &grey(7)), 100.0);
        assert_eq!((share([true, false]), share([])), (Some(0.5), None));
    }
}
