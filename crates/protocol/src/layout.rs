//! Where the stages keep their products: the one place that names the kinds of products and what each depends on.
//!
//! Results are in the result store under the job's own prefix ([`Job::result_prefix`]). Everything in between is named
//! `<kind>/<hash>`, by content. Pictures and encoded subjects are objects of the work store; segmentations travel in
//! tasks, and the cache has them for later jobs. Whatever is deleted is computed again, but for pictures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    BoundingBox, ContentHash, CutOut, IfNotFound, Job, JobId, MaskMode, PixelBudget, Point, SubjectArea, SubjectFound,
    limits,
};

/// Subjects' pictures as they were fetched, under the SHA-256 of their bytes.
pub const IMAGES: &str = "images";

/// How subjects are cut out ([`Segmentation`]), under [`segmentation_inputs`]; in the cache only.
pub const SEGMENTATIONS: &str = "segmentations";

/// Encoded subjects, under [`SubjectKeys::inputs`].
pub const SUBJECTS: &str = "subjects";

/// The version of the rules by which a subject is cut out, and of the form of a [`Segmentation`]; part of its key, so that
/// new rules lead to new ones.
pub const SEGMENTATION_VERSION: u32 = 3;

/// Largest [`Segmentation`] as JSON, in bytes: a mask in which every character may be escaped, a few numbers and a name.
pub const MAX_SEGMENTATION_BYTES: u64 = 2 * limits::MAX_MASK_BYTES as u64 + 16 * 1024;

/// The key of a job's picture number `index`, counted from 0.
pub fn result_image_key(job: &Job, index: usize) -> String {
    format!("{}/image-{index}.{}", job.result_prefix(), job.output.format.extension())
}

/// The key of the same picture if a different picture already has that key.
pub fn result_image_key_beside(job: &Job, index: usize, sha256: &ContentHash) -> String {
    let sha256 = sha256.to_string();
    let mark = sha256.get(..8).unwrap_or(&sha256);
    format!("{}/image-{index}-{mark}.{}", job.result_prefix(), job.output.format.extension())
}

/// The cache's key of the newest preview of a job's picture number `image`, counted from 0 in the order of the seeds.
pub fn newest_preview_key(job: &JobId, image: usize) -> String {
    format!("previews/{job}/{image}")
}

/// The cache's key of the preview of a picture after its first `scale` scales.
pub fn preview_key(job: &JobId, image: usize, scale: usize) -> String {
    format!("previews/{job}/{image}/{scale}")
}

/// How a subject is cut out of a picture, as JSON in the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Segmentation {
    /// What was recognised as the subject.
    pub subject: SubjectFound,
    /// Which pixels show it.
    pub area: SubjectArea,
}

impl Segmentation {
    /// The cut-out.
    pub fn cut_out(&self) -> CutOut {
        CutOut { image: self.subject.image, area: self.area.clone() }
    }

    /// What was found, with the name that this job gives: a segmentation is shared by all jobs with the same cut-out.
    pub fn subject_of(&self, job: &Job) -> SubjectFound {
        let name = job.subject.name.clone().or_else(|| self.subject.name.clone());
        SubjectFound { name, ..self.subject.clone() }
    }
}

/// Everything a cut-out depends on. Inputs of the search for a box are included only if there is a search, and the
/// networks only if they take part.
#[derive(Serialize)]
struct SegmentationInputs<'a> {
    version: u32,
    image: ContentHash,
    bounding_box: Option<BoundingBox>,
    mask: MaskMode,
    name: Option<&'a str>,
    point: Option<Point>,
    if_not_found: IfNotFound,
    finders: &'a str,
}

/// Hashes everything that the cut-out of this job's subject depends on. `finders` names the networks that find subjects,
/// and their settings, exactly; see [`SubjectKeys::finders`].
pub fn segmentation_inputs(image: ContentHash, job: &Job, finders: &str) -> ContentHash {
    let subject = &job.subject;
    let is_searched = subject.bounding_box.is_none();
    let inputs = SegmentationInputs {
        version: SEGMENTATION_VERSION,
        image,
        bounding_box: subject.bounding_box,
        mask: subject.mask,
        name: subject.name.as_deref().filter(|_| is_searched),
        point: subject.point.filter(|_| is_searched),
        if_not_found: if is_searched { subject.if_not_found } else { IfNotFound::default() },
        finders: if is_searched || subject.mask == MaskMode::Sam { finders } else { "" },
    };
    // Only numbers and text: serialising them to memory cannot fail.
    ContentHash::of(&serde_json::to_vec(&inputs).unwrap_or_default())
}

/// What the key of an encoded subject depends on: the networks that encode it, the type in which they compute, and the
/// resolution that a job needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectKeys {
    /// Identifies the encoding networks, such as by the joined digests of their checkpoints.
    pub encoders: String,
    /// The types in which encoders may compute, the likeliest first: `f32`, `bf16` or `f16`. An encoder has one; who
    /// leaves the choice to the encoder's device has several.
    #[serde(default)]
    pub dtypes: Vec<String>,
    /// Identifies the networks that find subjects, and their settings; empty if there are none.
    #[serde(default)]
    pub finders: String,
    /// The pixel budget of jobs that give none.
    pub default_pixel_budget: PixelBudget,
    /// The side in pixels at which a subject is encoded, for each supported pixel budget.
    pub resolutions: BTreeMap<PixelBudget, u32>,
}

impl SubjectKeys {
    /// The pixel budget of a job.
    pub fn pixel_budget(&self, job: &Job) -> PixelBudget {
        job.pixel_budget.unwrap_or(self.default_pixel_budget)
    }

    /// The side in pixels at which the job's subject is encoded, or one line that lists the supported pixel budgets.
    pub fn resolution(&self, job: &Job) -> Result<u32, String> {
        let budget = self.pixel_budget(job);
        self.resolutions.get(&budget).copied().ok_or_else(|| {
            let served: Vec<&str> = self.resolutions.keys().map(|budget| budget.as_str()).collect();
            let served = if served.is_empty() { "none".to_owned() } else { served.join(", ") };
            format!("the model bundle has no pixel budget {}; use one of: {served}", budget.as_str())
        })
    }

    /// The same keys for encoders that compute in one type.
    #[must_use]
    pub fn in_dtype(&self, dtype: &str) -> Self {
        Self { dtypes: vec![dtype.to_owned()], ..self.clone() }
    }

    /// Hashes everything that the encoded subject depends on, for each of the types in turn.
    pub fn inputs(&self, cut_out: &CutOut, resolution: u32) -> Vec<ContentHash> {
        // Only numbers and text: serialising them to memory cannot fail.
        let cut_out = serde_json::to_string(cut_out).unwrap_or_default();
        let hash =
            |dtype: &str| ContentHash::of(format!("{cut_out}\n{}\n{dtype}\n{resolution}", self.encoders).as_bytes());
        self.dtypes.iter().map(|dtype| hash(dtype)).collect()
    }

    /// Names networks and types as a sender of tasks does; see [`TaskHeaders::settings`](crate::TaskHeaders::settings).
    pub fn encoder_settings(&self) -> String {
        format!("{} {}", self.encoders, self.dtypes.join("|"))
    }

    /// Whether somebody with these settings finds what these encoders make.
    pub fn are_among(&self, encoder_settings: &str) -> bool {
        let Some((encoders, dtypes)) = encoder_settings.rsplit_once(' ') else { return false };
        encoders == self.encoders && self.dtypes.iter().all(|own| dtypes.split('|').any(|theirs| theirs == own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OutputFormat;

    fn job() -> Job {
        Job { id: JobId("j1".into()), ..Job::new("dog.png".into(), "a dog") }
    }

    #[test]
    fn pictures_lie_beside_the_result() {
        let mut job = job();
        assert_eq!(newest_preview_key(&job.id, 1), "previews/j1/1");
        assert_eq!(preview_key(&job.id, 1, 7), "previews/j1/1/7");
        job.output.destination = Some("dogs".into());
        job.output.format = OutputFormat::Jpeg;
        assert_eq!(result_image_key(&job, 3), "dogs/j1/image-3.jpg");
        let sha256 = ContentHash::of(b"");
        assert_eq!(result_image_key_beside(&job, 3, &sha256), "dogs/j1/image-3-e3b0c442.jpg");
    }

    #[test]
    fn a_cut_out_depends_on_picture_box_and_mask_but_not_on_the_prompt() {
        let image = ContentHash::of(b"picture");
        let first = job();
        let mut other = Job { prompt: "a dog at sea".into(), ..first.clone() };
        assert_eq!(segmentation_inputs(image, &first, "f"), segmentation_inputs(image, &other, "f"));
        other.subject.bounding_box = Some(BoundingBox { left: 0, top: 0, right: 4, bottom: 4 });
        let boxed = segmentation_inputs(image, &other, "f");
        assert_ne!(segmentation_inputs(image, &first, "f"), boxed);
        other.subject.name = Some("dog".into());
        assert_eq!(boxed, segmentation_inputs(image, &other, "f"), "a given box needs no name");
        other.subject.mask = MaskMode::None;
        assert_ne!(boxed, segmentation_inputs(image, &other, "f"));
        assert_ne!(
            segmentation_inputs(ContentHash::of(b"another"), &first, "f"),
            segmentation_inputs(image, &first, "f")
        );
    }

    #[test]
    fn a_search_depends_on_its_networks_point_and_policy() {
        let image = ContentHash::of(b"picture");
        let (plain, mut pointed, mut lenient) = (job(), job(), job());
        pointed.subject.point = Some(Point { x: 1, y: 2 });
        lenient.subject.if_not_found = IfNotFound::WholeImage;
        let inputs = |job: &Job, finders: &str| segmentation_inputs(image, job, finders);
        let keys = [inputs(&plain, "f"), inputs(&plain, "g"), inputs(&pointed, "f"), inputs(&lenient, "f")];
        let distinct: std::collections::BTreeSet<_> = keys.iter().map(ToString::to_string).collect();
        assert_eq!(distinct.len(), 4);
        let mut boxed = lenient;
        boxed.subject.bounding_box = Some(BoundingBox { left: 0, top: 0, right: 4, bottom: 4 });
        assert_eq!(inputs(&boxed, "f"), inputs(&boxed, "g"), "a given box needs no network");
        boxed.subject.mask = MaskMode::Sam;
        assert_ne!(inputs(&boxed, "f"), inputs(&boxed, "g"), "but an outline does");
    }

    #[test]
    fn an_encoded_subject_depends_on_cut_out_networks_type_and_resolution() {
        let keys = SubjectKeys {
            encoders: "a".into(),
            dtypes: vec!["f32".into(), "bf16".into()],
            finders: String::new(),
            default_pixel_budget: PixelBudget::M0_06,
            resolutions: [(PixelBudget::M0_06, 256)].into(),
        };
        let others = SubjectKeys { encoders: "b".into(), ..keys.clone() };
        let whole = CutOut { image: ContentHash::of(b"picture"), area: SubjectArea::Whole };
        let other = CutOut { image: ContentHash::of(b"other"), ..whole.clone() };
        let area = BoundingBox { left: 0, top: 0, right: 4, bottom: 4 };
        let boxed = CutOut { area: SubjectArea::Box(area), ..whole.clone() };
        let mut distinct: std::collections::BTreeSet<_> = keys.inputs(&whole, 512).into_iter().collect();
        for hashes in [keys.inputs(&whole, 256), others.inputs(&whole, 256), keys.inputs(&other, 256)] {
            distinct.extend(hashes);
        }
        distinct.extend(keys.inputs(&boxed, 256));
        assert_eq!(distinct.len(), 10, "five inputs in two types");
        let own = keys.in_dtype("bf16");
        assert_eq!(own.inputs(&whole, 256), keys.inputs(&whole, 256)[1..]);
        assert!(own.are_among(&keys.encoder_settings()) && own.are_among(&own.encoder_settings()));
        assert!(!own.are_among(&keys.in_dtype("f32").encoder_settings()), "another type");
        assert!(!own.are_among(&others.encoder_settings()) && !own.are_among(""), "other networks");
        assert_eq!(keys.resolution(&job()), Ok(256));
        let error = keys.resolution(&Job { pixel_budget: Some(PixelBudget::M1), ..job() }).unwrap_err();
        assert_eq!(error, "the model bundle has no pixel budget 1M; use one of: 0.06M");
    }

    #[test]
    fn a_shared_record_carries_each_jobs_own_name() {
        let subject = SubjectFound {
            image: ContentHash::of(b"picture"),
            name: Some("dog".into()),
            bounding_box: BoundingBox { left: 0, top: 0, right: 4, bottom: 4 },
            score: None,
            how: crate::FoundBy::Job,
        };
        let record = Segmentation { subject, area: SubjectArea::Whole };
        let mut job = job();
        assert_eq!(record.subject_of(&job).name.as_deref(), Some("dog"));
        job.subject.name = Some("puppy".into());
        assert_eq!(record.subject_of(&job).name.as_deref(), Some("puppy"));
    }
}
