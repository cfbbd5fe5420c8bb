//! The networks of a bundle for evaluation: in this process, without stages and stores.

use std::sync::Arc;

use anyhow::Result;
use echogen_checkpoint::bundle::Bundle;
use echogen_imaging::{PixelBox, RgbImage, white_outside};
use echogen_models::{
    device::Compute, echogen::SamplingOptions, encoded_subject::EncodedSubject, generator::ImageRequest,
    subject_finder::SubjectFinder,
};

use super::examples::Example;
use crate::{
    judge::{Judge, Judgement},
    markings::{Markings, MarkingsJudge},
    pipeline::{self, Pipeline},
    round_trip::RoundTrip,
};

/// Minimum score of a box, as in the segmenter.
const BOX_THRESHOLD: f32 = 0.3;

/// The networks of a bundle.
pub(crate) struct Networks {
    pub(crate) pipeline: Pipeline,
    pub(crate) finder: SubjectFinder,
    pub(crate) round_trip: Option<RoundTrip>,
    pub(crate) judge: Option<Judge>,
    pub(crate) markings: Option<MarkingsJudge>,
}

/// Features and classes of one picture.
pub(crate) struct PictureFeatures {
    /// DINOv2's class token of the subject's cut-out.
    pub(crate) dino: Vec<f32>,
    /// The judge's output for the whole picture.
    pub(crate) judgement: Option<Judgement>,
    /// The markings of the subject in the picture, as their judge sees them; not of references.
    pub(crate) markings: Option<Markings>,
}

impl Networks {
    /// Loads all networks.
    pub(crate) fn load(bundle: &Bundle, compute: &Compute) -> Result<Self> {
        let Compute { device, dtype } = compute;
        Ok(Self {
            // Pictures of the drawn world are square, whatever the bundle's default aspect ratio.
            pipeline: Pipeline::load(bundle, compute)?,
            finder: SubjectFinder::load(bundle, device, *dtype)?,
            round_trip: RoundTrip::load(bundle, device)?,
            judge: Judge::load(bundle.weights_folder(), device)?,
            markings: MarkingsJudge::load(bundle.weights_folder(), device)?,
        })
    }

    /// Returns the side in pixels of the generated pictures.
    pub(crate) fn side(&self) -> usize {
        self.pipeline.schedule.pixels().0
    }

    /// Makes a picture of each example, in batches; `made` is called with the size of each batch.
    pub(crate) fn make(
        &self,
        examples: &[Example],
        subjects: &[Arc<EncodedSubject>],
        options: &SamplingOptions,
        mut made: impl FnMut(usize),
    ) -> Result<Vec<RgbImage>> {
        let requests: Vec<ImageRequest> = (self.pipeline.seed..)
            .zip(examples.iter().zip(subjects))
            .map(|(seed, (example, subject))| pipeline::request(&example.caption, subject, seed, options))
            .collect();
        let mut pictures = Vec::with_capacity(requests.len());
        for batch in requests.chunks(self.pipeline.side_by_side(options)) {
            pictures.extend(self.pipeline.make(batch)?);
            made(batch.len());
        }
        Ok(pictures)
    }

    /// Analyses a picture that should show a subject of that name. DINOv2 reads its cut-out if the subject is
    /// detected.
    pub(crate) fn look(&self, picture: &RgbImage, name: &str) -> Result<PictureFeatures> {
        let found = self.detect(picture, name)?.filter(|(_, score)| *score >= BOX_THRESHOLD);
        let area = found.and_then(|(place, _)| pixels(place, picture));
        let cutout = area.map_or_else(|| Ok(picture.clone()), |area| white_outside(picture, area))?;
        let (width, height) = picture.dimensions();
        let area = area.unwrap_or(PixelBox { left: 0, top: 0, right: width, bottom: height });
        let markings = self.markings.as_ref().map(|judge| judge.judge(picture, area)).transpose()?;
        Ok(PictureFeatures { markings, ..self.look_at_cutout(&cutout, picture)? })
    }

    /// Analyses a reference, which already is a cut-out.
    pub(crate) fn look_at_reference(&self, cutout: &RgbImage) -> Result<PictureFeatures> {
        self.look_at_cutout(cutout, cutout)
    }

    fn look_at_cutout(&self, cutout: &RgbImage, whole: &RgbImage) -> Result<PictureFeatures> {
        let dino = self.pipeline.encode(cutout)?.cls.to_vec1::<f32>()?;
        let judgement = self.judge.as_ref().map(|judge| judge.judge(whole)).transpose()?;
        Ok(PictureFeatures { dino, judgement, markings: None })
    }

    /// Returns the box with the highest score, and the score; `None` without a detector.
    pub(crate) fn detect(&self, picture: &RgbImage, name: &str) -> Result<Option<([f32; 4], f32)>> {
        let Some(detector) = &self.finder.detector else { return Ok(None) };
        let found = detector.detect(picture, name)?;
        let best = found.into_iter().max_by(|a, b| a.score.total_cmp(&b.score));
        Ok(best.map(|best| (best.bounding_box, best.score)))
    }
}

/// Returns the pixels that a box touches; `None` if there are none.
fn pixels([left, top, right, bottom]: [f32; 4], picture: &RgbImage) -> Option<PixelBox> {
    let (width, height) = picture.dimensions();
    let (right, bottom) = ((right.ceil() as u32).min(width), (bottom.ceil() as u32).min(height));
    let area = PixelBox { left: left.floor() as u32, top: top.floor() as u32, right, bottom };
    (area.left < area.right && area.top < area.bottom).then_some(area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_becomes_the_pixels_it_touches() {
        let picture = RgbImage::new(10, 8);
        let area = pixels([1.5, 0.2, 9.1, 9.0], &picture).unwrap();
        assert_eq!((area.left, area.top, area.right, area.bottom), (1, 0, 10, 8));
        assert!(pixels([3.0, 2.0, 3.0, 5.0], &picture).is_none());
    }
}
