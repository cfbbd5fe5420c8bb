//! The networks of a bundle as evaluation uses them: in this process, without stages and stores.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use echogen_models::{
    bundle::Bundle,
    device::Compute,
    echogen::{PerScale, PixelBudget, SamplingOptions, Schedule},
    generator::{Generator, ImageRequest, load_subject_encoder},
    imaging::{PixelBox, RgbImage, white_outside},
    judge::{Judge, Verdict},
    round_trip::RoundTrip,
    subject_encoder::{EncodedSubject, SubjectEncoder},
    subject_finder::SubjectFinder,
};

use super::{arguments::EvalArguments, examples::Example};

/// Bytes of conditions kept from picture to picture.
const CONDITION_CACHE_BYTES: usize = 1 << 28;

/// Pictures that are sampled side by side.
const BATCH: usize = 16;

/// Least score of a box, as in the stage.
const BOX_THRESHOLD: f32 = 0.3;

/// What a bundle has.
pub(crate) struct Bench {
    pub(crate) generator: Generator,
    encoder: SubjectEncoder,
    pub(crate) finder: SubjectFinder,
    pub(crate) round_trip: Option<RoundTrip>,
    pub(crate) judge: Option<Judge>,
    pub(crate) schedule: Schedule,
    /// Pixels on a side of a subject.
    pub(crate) resolution: usize,
    /// The seed of the first picture; the others count up.
    pub(crate) seed: u64,
}

/// What is to be seen on a picture.
pub(crate) struct Impression {
    /// DINOv2's class token of the subject.
    pub(crate) dino: Vec<f32>,
    /// What the judge says of the whole picture.
    pub(crate) verdict: Option<Verdict>,
}

impl Bench {
    /// Loads everything.
    pub(crate) fn load(bundle: &Bundle, Compute { device, dtype }: &Compute) -> Result<Self> {
        let defaults = &bundle.manifest().sampling;
        let budget = PixelBudget::ALL.into_iter().find(|budget| budget.to_string() == defaults.pixel_budget);
        let budget = budget.ok_or_else(|| anyhow!("the bundle names no known pixel budget"))?;
        let generator = Generator::load(bundle, device, *dtype, CONDITION_CACHE_BYTES)?;
        // Pictures of the small world are square, whatever the bundle's usual shape.
        let schedule = generator.schedule(1.0, budget)?;
        let resolution = defaults.subject_resolution.get(&defaults.pixel_budget).copied();
        Ok(Self {
            encoder: load_subject_encoder(bundle, device, *dtype)?,
            finder: SubjectFinder::load(bundle, device, *dtype)?,
            round_trip: RoundTrip::load(bundle, device)?,
            judge: Judge::load(bundle.weights_folder(), device)?,
            resolution: resolution.context("the bundle's pixel budget has no subject_resolution")? as usize,
            seed: defaults.seed,
            generator,
            schedule,
        })
    }

    /// Pixels on a side of what is made.
    pub(crate) fn side(&self) -> usize {
        self.schedule.pixels().0
    }

    /// Encodes a cut-out.
    pub(crate) fn encode(&self, cutout: &RgbImage) -> Result<EncodedSubject> {
        Ok(self.encoder.encode(cutout, self.resolution)?)
    }

    /// Makes a picture of each example, in batches; `made` is told how many each batch had.
    pub(crate) fn make(
        &self,
        examples: &[Example],
        subjects: &[Arc<EncodedSubject>],
        options: &SamplingOptions,
        mut made: impl FnMut(usize),
    ) -> Result<Vec<RgbImage>> {
        let requests: Vec<ImageRequest> = (0..)
            .zip(examples.iter().zip(subjects))
            .map(|(number, (example, subject))| self.request(example, subject, self.seed + number, options))
            .collect();
        let mut pictures = Vec::with_capacity(requests.len());
        for batch in requests.chunks(BATCH) {
            pictures
                .extend(self.generator.generate(batch, &self.schedule, |_, _| std::ops::ControlFlow::Continue(()))?);
            made(batch.len());
        }
        Ok(pictures)
    }

    fn request(
        &self,
        example: &Example,
        subject: &Arc<EncodedSubject>,
        seed: u64,
        options: &SamplingOptions,
    ) -> ImageRequest {
        ImageRequest {
            prompt: example.caption.clone(),
            negative_prompt: None,
            subject: Arc::clone(subject),
            seed,
            options: options.clone(),
        }
    }

    /// Looks at a picture that should show a subject of that name; DINOv2 sees its cut-out, if it can be found.
    pub(crate) fn look(&self, picture: &RgbImage, name: &str) -> Result<Impression> {
        let found = self.detect(picture, name)?.filter(|(_, score)| *score >= BOX_THRESHOLD);
        let area = found.and_then(|(place, _)| pixels(place, picture));
        let cutout = area.map_or_else(|| Ok(picture.clone()), |area| white_outside(picture, area))?;
        self.look_at_cutout(&cutout, picture)
    }

    /// Looks at a reference, which is a cut-out already.
    pub(crate) fn look_at_reference(&self, cutout: &RgbImage) -> Result<Impression> {
        self.look_at_cutout(cutout, cutout)
    }

    fn look_at_cutout(&self, cutout: &RgbImage, whole: &RgbImage) -> Result<Impression> {
        let dino = self.encode(cutout)?.cls.to_vec1::<f32>()?;
        let verdict = self.judge.as_ref().map(|judge| judge.judge(whole)).transpose()?;
        Ok(Impression { dino, verdict })
    }

    /// The box with the best score, and the score; `None` without a detector.
    pub(crate) fn detect(&self, picture: &RgbImage, name: &str) -> Result<Option<([f32; 4], f32)>> {
        let Some(detector) = &self.finder.detector else { return Ok(None) };
        let found = detector.detect(picture, name)?;
        let best = found.into_iter().max_by(|a, b| a.score.total_cmp(&b.score));
        Ok(best.map(|best| (best.bounding_box, best.score)))
    }
}

/// The pixels that a box touches; `None` if there are none.
fn pixels([left, top, right, bottom]: [f32; 4], picture: &RgbImage) -> Option<PixelBox> {
    let (width, height) = picture.dimensions();
    let (right, bottom) = ((right.ceil() as u32).min(width), (bottom.ceil() as u32).min(height));
    let area = PixelBox { left: left.floor() as u32, top: top.floor() as u32, right, bottom };
    (area.left < area.right && area.top < area.bottom).then_some(area)
}

/// The bundle's sampling parameters, with what the options give in their place.
pub(crate) fn sampling(bundle: &Bundle, arguments: &EvalArguments) -> SamplingOptions {
    let defaults = &bundle.manifest().sampling;
    let or = |given: &Option<echogen_protocol::PerScale>, default: f64| match given {
        None => PerScale::All(default),
        Some(echogen_protocol::PerScale::All(number)) => PerScale::All(*number),
        Some(echogen_protocol::PerScale::Each(numbers)) => PerScale::Each(numbers.clone()),
    };
    SamplingOptions {
        guidance_text: or(&arguments.guidance_text, defaults.guidance_text),
        guidance_subject: or(&arguments.guidance_subject, defaults.guidance_subject),
        temperature: or(&arguments.temperature, defaults.temperature),
        top_k: defaults.top_k,
        top_p: arguments.top_p.unwrap_or(defaults.top_p),
    }
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
