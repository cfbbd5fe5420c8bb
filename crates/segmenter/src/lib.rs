//! The segmenter: locates the subject in a picture.
//!
//! It decodes the stored picture within limits and asks its [`Detector`] where the subject is. The answer, a
//! [`Segmentation`], goes on in the task, and into the cache for later jobs; there is no object, and the encoder paints
//! the background white. The cache's key is derived from the content, so the subject of a given picture, box and mask mode
//! is located once, for any number of prompts, even if the tasks arrive at the same moment in several processes.
//!
//! An outline whose runs take more than [`limits::MAX_MASK_BYTES`] loses detail until they fit: gaps in its rows are closed,
//! narrow ones first, so it still contains the whole subject. If that is not enough, the box is used.
//!
//! The rules are in [`find_subject`], the networks behind [`SubjectNetworks`]. [`NetworkDetector`] runs both on an
//! inference thread of its own; [`GivenBox`] uses the job's own box or the whole picture, for bundles without such
//! networks.

mod detector;
mod finder;
mod network_detector;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_imaging::{ImageError, ImageLimits, PixelBox, RgbImage, SubjectMask};
use echogen_ports::{Fault, FaultKind, MemoryBudget, ObjectKey, spawn_blocking};
use echogen_protocol::{
    BoundingBox, ContentHash, EncodeTask, EventKind, Job, MaskMode, MaskRuns, SegmentTask, Segmentation, StageName,
    SubjectArea, SubjectFound, layout, limits,
};
use echogen_worker::{CachedObjects, Outcome, Products, ProductsConfig, Stage, StageContext};

pub use detector::{DetectError, Detector, Found, GivenBox};
pub use finder::{FinderConfig, NetworkError, Selection, SubjectNetworks, find_subject};
pub use network_detector::NetworkDetector;

/// How many pixels wide the gaps are that an outline loses if it is too ragged, one after the other.
const GAPS: [usize; 4] = [4, 16, 64, 256];

/// The segmenter stage.
#[derive(Debug)]
pub struct Segmenter {
    limits: ImageLimits,
    detector: Arc<dyn Detector>,
    segmentations: Products<Segmentation>,
    memory: MemoryBudget,
}

impl Segmenter {
    /// Creates a segmenter that decodes pictures of `objects` within `limits`, asks `detector`, and leaves its
    /// segmentations in the cache of `objects`.
    pub fn new(
        limits: ImageLimits,
        detector: Arc<dyn Detector>,
        objects: CachedObjects,
        config: &ProductsConfig,
    ) -> Self {
        let memory = MemoryBudget::new(config.picture_memory_bytes);
        Self { limits, detector, segmentations: Products::new(objects, config), memory }
    }

    async fn segment(&self, task: SegmentTask, context: &StageContext) -> Result<Outcome, Fault> {
        let started = Instant::now();
        let SegmentTask { job, image, mut progress } = task;
        let (finders, inputs) =
            (self.detector.version(), |finders: &str| layout::segmentation_inputs(image, &job, finders));
        let own = inputs(&finders);
        context.check_settings("finder settings", &finders, |theirs| inputs(theirs) == own)?;
        let key = ObjectKey::of_content(layout::SEGMENTATIONS, &own)?;
        let make = || self.make(&job, image, context);
        let obtained = self.segmentations.get_or_make(context, &key, progress.is_new(), make).await?;
        let found = obtained.is_found();
        let segmentation = obtained.product;
        let subject = segmentation.subject_of(&job);
        progress.models.extend(self.detector.models());
        progress.note(StageName::Segmenter, started.elapsed().as_secs_f64(), found);
        context.publish_new(EventKind::Segmented, &job.id, serde_json::json!({ "subject": subject })).await;
        progress.subject = Some(subject);
        Ok(Outcome::next(&EncodeTask::new(job, segmentation.cut_out(), progress)))
    }

    /// Locates the subject.
    async fn make(&self, job: &Job, image: ContentHash, context: &StageContext) -> Result<Segmentation, Fault> {
        let limits = self.limits;
        let max_bytes = limits::MAX_IMAGE_BYTES.max(limits.max_bytes);
        let bytes = self.segmentations.objects().picture(image, max_bytes).await?;
        let measure = move |bytes: &Bytes| echogen_imaging::decoding_bytes(bytes, &limits).map_err(bad_image);
        let decode = move |bytes: &Bytes| echogen_imaging::decode_image(bytes, &limits).map_err(bad_image);
        // This order prevents a deadlock: a task that holds a memory permit waits only for the detector, which needs
        // no memory permit, so it never waits for a task that waits for memory.
        let (picture, memory) = self.memory.load(bytes, measure, decode).await?;
        let picture = Arc::new(picture);
        let found = self.detector.detect(Arc::clone(&picture), job, context.time_limit.until()).await?;
        let Found { bounding_box, mask: outline, name, score, how } = found;
        let mode = job.subject.mask;
        let area = match outline {
            None => area_of(&picture, bounding_box, None, mode),
            // The runs of a large outline take milliseconds.
            outline => {
                let measure = move || {
                    // The closure owns the memory permit, because the work runs to its end even if this task's future
                    // is dropped.
                    let _memory = memory;
                    area_of(&picture, bounding_box, outline, mode)
                };
                spawn_blocking(measure).await?
            }
        };
        let subject = SubjectFound { image, name, bounding_box, score, how };
        Ok(Segmentation { subject, area: area.map_err(bad_image)? })
    }
}

#[async_trait]
impl Stage for Segmenter {
    type Task = SegmentTask;

    async fn run(&self, task: SegmentTask, context: &StageContext) -> Result<Outcome, Fault> {
        self.segment(task, context).await
    }
}

/// Returns which pixels of the picture are kept: those in the outline if there is one, otherwise those in the box.
fn area_of(
    picture: &RgbImage,
    bounding_box: BoundingBox,
    outline: Option<SubjectMask>,
    mode: MaskMode,
) -> Result<SubjectArea, ImageError> {
    let BoundingBox { left, top, right, bottom } = bounding_box;
    // A box outside the picture is an error even if nothing is painted.
    PixelBox { left, top, right, bottom }.check(picture.width(), picture.height())?;
    let is_whole = (left, top) == (0, 0) && (right, bottom) == picture.dimensions();
    Ok(match outline {
        _ if mode == MaskMode::None => SubjectArea::Whole,
        Some(outline) => mask_area(picture, &outline).unwrap_or(SubjectArea::Box(bounding_box)),
        // One area has one name, so that its encoded subject has one key.
        None if is_whole => SubjectArea::Whole,
        None => SubjectArea::Box(bounding_box),
    })
}

/// Returns the outline, with less detail if it is too ragged for a task, or `None` if it is too ragged for that.
fn mask_area(picture: &RgbImage, outline: &SubjectMask) -> Option<SubjectArea> {
    let (width, height) = picture.dimensions();
    let area = |mask: &SubjectMask| MaskRuns::new(width, height, mask.runs()).ok().map(SubjectArea::Mask);
    area(outline).or_else(|| GAPS.iter().find_map(|gap| area(&outline.without_gaps(*gap))))
}

fn bad_image(error: ImageError) -> Fault {
    Fault::from_error(FaultKind::BadImage, error)
}

#[cfg(test)]
mod tests;
