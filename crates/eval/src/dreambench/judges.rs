//! The metric networks and the scores computed from their features.

use anyhow::{Result, ensure};
use echogen_imaging::RgbImage;
use echogen_models::Device;
use serde::Serialize;

use super::arguments::DreamBenchArguments;
use crate::{
    measures,
    similarity::{Clip, Dino, Direction},
};

/// The networks whose folders were given.
pub(super) struct Judges {
    dino: Option<Dino>,
    clip: Option<Clip>,
}

/// Features of a picture.
pub(super) struct Features {
    dino: Option<Direction>,
    clip: Option<Direction>,
}

/// Mean cosine similarities; absent for networks that were not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Scores {
    /// DINO features of pictures and photographs.
    pub(super) dino: Option<f64>,
    /// CLIP features of pictures and photographs.
    pub(super) clip_i: Option<f64>,
    /// CLIP features of pictures and sentences.
    pub(super) clip_t: Option<f64>,
}

impl Judges {
    /// Loads the networks whose folders the options name.
    pub(super) fn load(options: &DreamBenchArguments, device: &Device) -> Result<Self> {
        ensure!(
            options.dino.is_some() || options.clip.is_some(),
            "there is no judge: give --dino FOLDER, --clip FOLDER or both"
        );
        let dino = options.dino.as_deref().map(|folder| Dino::load(folder, device)).transpose()?;
        let clip = options.clip.as_deref().map(|folder| Clip::load(folder, device)).transpose()?;
        Ok(Self { dino, clip })
    }

    /// Computes the features of a picture.
    pub(super) fn see(&self, picture: &RgbImage) -> Result<Features> {
        let dino = self.dino.as_ref().map(|dino| dino.picture(picture)).transpose()?;
        let clip = self.clip.as_ref().map(|clip| clip.picture(picture)).transpose()?;
        Ok(Features { dino, clip })
    }

    /// Computes the features of a sentence.
    pub(super) fn read(&self, sentence: &str) -> Result<Option<Direction>> {
        Ok(self.clip.as_ref().map(|clip| clip.sentence(sentence)).transpose()?)
    }
}

impl Scores {
    /// Returns the scores of a picture against all photographs of its subject and its sentence.
    pub(super) fn of(picture: &Features, photographs: &[Features], sentence: Option<&Direction>) -> Self {
        let all = || photographs.iter().map(|photograph| (picture, photograph));
        Self {
            clip_t: picture.clip.as_ref().zip(sentence).map(|(picture, sentence)| picture.cosine(sentence)),
            ..Self::of_pairs(all)
        }
    }

    /// Returns the scores between photographs, each pair once; absent if there is only one photograph.
    pub(super) fn of_photographs(photographs: &[Features]) -> Self {
        let others = |number: usize| photographs[number + 1..].iter();
        let pairs = || (0..).zip(photographs).flat_map(|(number, one)| others(number).map(move |other| (one, other)));
        Self::of_pairs(pairs)
    }

    /// Returns the mean of several scores, for each metric.
    pub(super) fn mean(all: &[Self]) -> Self {
        let mean = |score: fn(&Self) -> Option<f64>| measures::average(all.iter().filter_map(score));
        Self { dino: mean(|one| one.dino), clip_i: mean(|one| one.clip_i), clip_t: mean(|one| one.clip_t) }
    }

    fn of_pairs<'a, Pairs: Iterator<Item = (&'a Features, &'a Features)>>(pairs: impl Fn() -> Pairs) -> Self {
        let dino = pairs().filter_map(|(one, other)| cosine(&one.dino, &other.dino));
        let clip = pairs().filter_map(|(one, other)| cosine(&one.clip, &other.clip));
        Self { dino: measures::average(dino), clip_i: measures::average(clip), clip_t: None }
    }
}

fn cosine(one: &Option<Direction>, other: &Option<Direction>) -> Option<f64> {
    one.as_ref().zip(other.as_ref()).map(|(one, other)| one.cosine(other))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn judges() -> Judges {
        let fixture =
            |name: &str| Some(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name));
        let (dino, clip) = (fixture("dino"), fixture("clip"));
        let (dreambench, keep, subjects) = (None, None, Vec::new());
        let options = DreamBenchArguments { dreambench, dino, clip, keep, per_prompt: 1, subjects };
        Judges::load(&options, &Device::Cpu).unwrap()
    }

    fn picture(blue: u8) -> RgbImage {
        RgbImage::from_fn(40, 32, |x, y| [(x * 6) as u8, (y * 8) as u8, blue].into())
    }

    #[test]
    fn a_picture_is_most_like_itself_and_all_pairs_count() {
        let judges = judges();
        let seen: Vec<Features> = [0, 90, 255].map(|blue| judges.see(&picture(blue)).unwrap()).into();
        let sentence = judges.read("a robot on the beach").unwrap();
        let alone = Scores::of(&seen[0], &seen[..1], sentence.as_ref());
        assert!((alone.dino.unwrap() - 1.0).abs() < 1e-6 && (alone.clip_i.unwrap() - 1.0).abs() < 1e-6, "{alone:?}");
        let other = Scores::of(&seen[0], &seen[2..], sentence.as_ref());
        assert!(other.dino.unwrap() < 0.999 && other.clip_i.unwrap() < 0.999, "{other:?}");
        assert_eq!(other.clip_t, alone.clip_t);
        assert!(alone.clip_t.unwrap().abs() < 0.999);
        let both = Scores::of(&seen[0], &[judges.see(&picture(0)).unwrap(), judges.see(&picture(255)).unwrap()], None);
        let expected = (alone.dino.unwrap() + other.dino.unwrap()) / 2.0;
        assert!((both.dino.unwrap() - expected).abs() < 1e-9, "{both:?}");
        assert_eq!(both.clip_t, None);
    }

    #[test]
    fn photographs_are_not_compared_with_themselves() {
        let judges = judges();
        let seen: Vec<Features> = [0, 90, 255].map(|blue| judges.see(&picture(blue)).unwrap()).into();
        assert_eq!(Scores::of_photographs(&seen[..1]), Scores::default());
        let pairs = [(0, 1), (0, 2), (1, 2)].map(|(one, other)| Scores::of(&seen[one], &seen[other..=other], None));
        let expected = Scores::mean(&pairs);
        let all = Scores::of_photographs(&seen);
        assert!((all.dino.unwrap() - expected.dino.unwrap()).abs() < 1e-9);
        assert!((all.clip_i.unwrap() - expected.clip_i.unwrap()).abs() < 1e-9);
    }
}
