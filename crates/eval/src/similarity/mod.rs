//! Similarity metrics of published networks: normalised feature vectors of pictures and sentences, compared by cosine.
//!
//! Used in evaluation only, as in the DreamBooth paper: [`Dino`] and [`Clip`] measure the similarity of two pictures;
//! CLIP also measures how well a picture fits a sentence. Both networks use candle-transformers and are compared with
//! reference values like the networks in crate `models`. Their files are read from folders in the layout of Hugging
//! Face.

mod clip;
mod dino;
mod error;
mod published;

use candle_core::{Device, Result, Tensor};
use image::RgbImage;

pub use clip::{Clip, ClipConfig};
pub use dino::{Dino, DinoConfig};
pub use error::SimilarityError;

/// A feature vector normalised to length 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction(Vec<f32>);

impl Direction {
    /// Normalises the first row of `features` (rows, width).
    fn of(features: &Tensor) -> Result<Self> {
        let values = features.get(0)?.to_vec1::<f32>()?;
        let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        if !(length.is_finite() && length > 0.0) {
            candle_core::bail!("the features have length {length}, and so no direction");
        }
        Ok(Self(values.into_iter().map(|value| (f64::from(value) / length) as f32).collect()))
    }

    /// Returns the cosine similarity of two vectors of one network, -1 to 1: 1 for equal ones, near 0 for unrelated
    /// ones.
    pub fn cosine(&self, other: &Self) -> f64 {
        self.0.iter().zip(&other.0).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }
}

/// Channel means and standard deviations of a network's training data, for values from 0 to 1.
#[derive(Clone, Copy, Debug)]
struct Normalization {
    mean: [f32; 3],
    deviation: [f32; 3],
}

impl Normalization {
    /// Returns the normalised picture as (3, height, width), f32.
    fn apply(&self, picture: &RgbImage) -> Result<Tensor> {
        let channel = |c: usize| {
            let bytes = picture.as_raw().iter().skip(c).step_by(3);
            bytes.map(move |byte| (f32::from(*byte) / 255.0 - self.mean[c]) / self.deviation[c])
        };
        let planes: Vec<f32> = (0..3).flat_map(channel).collect();
        Tensor::from_vec(planes, (3, picture.height() as usize, picture.width() as usize), &Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn direction(values: &[f32]) -> Direction {
        Direction::of(&Tensor::new(values, &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap()
    }

    #[test]
    fn cosines_know_angles_and_no_lengths() {
        let east = direction(&[3.0, 0.0]);
        assert_eq!(east.cosine(&direction(&[0.5, 0.0])), 1.0);
        assert_eq!(east.cosine(&direction(&[0.0, 9.0])), 0.0);
        assert_eq!(east.cosine(&direction(&[-1.0, 0.0])), -1.0);
        assert!((east.cosine(&direction(&[1.0, 1.0])) - 0.5f64.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn nothing_has_no_direction() {
        for values in [[0.0f32, 0.0], [f32::NAN, 1.0]] {
            let features = Tensor::new(&values, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
            assert!(Direction::of(&features).unwrap_err().to_string().contains("no direction"));
        }
    }
}
