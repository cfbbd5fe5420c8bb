//! The segmenter: finds the subject in a picture and paints everything else white.
//!
//! It decodes the stored picture within limits, asks its [`Detector`] where the subject is, and leaves the cut-out, a
//! PNG under its own hash, and a small record of how it was made. Both are named by content: the same picture, box and
//! mask mode are cut out once, whatever the number of prompts, also when they arrive at the same moment in several
//! processes.
//!
//! The rules of the search are in [`find_subject`], the networks behind [`SubjectNetworks`]. [`NetworkDetector`] runs both on
//! a thread of its own; [`GivenBox`] takes the job's own box or the whole picture, for bundles without such networks.

mod detector;
mod finder;
mod network_detector;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_imaging::{ImageFormat, ImageLimits, PixelBox, RgbImage, SubjectMask};
use echogen_ports::{Cache, ObjectKey, ObjectStore};
use echogen_protocol::{
    BoundingBox, ContentHash, EncodeTask, EventKind, FailureKind, Job, MaskMode, SegmentTask, Segmentation,
    SubjectFound, Task, layout, limits,
};
use echogen_worker::{
    CachedObjects, LeaseConfig, MemoryBudget, Outcome, Shared, SharedFlight, SharedWork, SingleFlight, Stage,
    StageContext, StageError, off_thread,
};

pub use detector::{DetectError, Detector, Found, GivenBox};
pub use finder::{FinderConfig, NetworkError, Selection, SubjectNetworks, find_subject};
pub use network_detector::NetworkDetector;

/// Bytes of a [`Segmentation`]: a handful of numbers and a name.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// Memory for the pictures of all tasks at work: one of the largest size, or five of twelve megapixels.
const PICTURE_MEMORY_BYTES: u64 = 1024 * 1024 * 1024;

/// The stage.
#[derive(Debug)]
pub struct Segmenter {
    limits: ImageLimits,
    detector: Arc<dyn Detector>,
    work: CachedObjects,
    flights: SingleFlight<ObjectKey, Segmentation>,
    shared: SharedFlight,
    memory: MemoryBudget,
}

impl Segmenter {
    /// The stage's name in logs, timings and metrics.
    pub const NAME: &'static str = "segmenter";

    /// A segmenter that decodes pictures within `limits` and asks `detector`. It leaves what it makes in `work` and in
    /// `cache`, which also holds the leases by which the segmenters of several processes agree on one.
    pub fn new(
        limits: ImageLimits,
        detector: Arc<dyn Detector>,
        work: Arc<dyn ObjectStore>,
        cache: Arc<dyn Cache>,
    ) -> Self {
        let shared = SharedFlight::new(Arc::clone(&cache), LeaseConfig::default());
        let memory = MemoryBudget::new(PICTURE_MEMORY_BYTES);
        Self { limits, detector, work: CachedObjects::new(work, cache), flights: SingleFlight::new(), shared, memory }
    }

    async fn segment(&self, task: SegmentTask, context: &StageContext) -> Result<Outcome, StageError> {
        let started = Instant::now();
        let SegmentTask { job, image, mut progress } = task;
        let key = ObjectKey::of_content(
            layout::SEGMENTATIONS,
            &layout::segmentation_inputs(image, &job, &self.detector.version()),
        )?;
        let mut made = false;
        let is_new = progress.is_new();
        let segmentation = CutOut { stage: self, key: &key, job: &job, image, is_new, context };
        let record = self
            .flights
            .run(&key, async {
                let shared = self.shared.run_for(context, key.as_str(), &segmentation).await?;
                made = matches!(shared, Shared::Made(_));
                Ok::<_, StageError>(shared.into_product())
            })
            .await?;
        progress.models.extend(self.detector.models());
        progress.subject = Some(record.subject_of(&job));
        progress.cutout = Some(record.cutout);
        progress.note(Self::NAME, started.elapsed().as_secs_f64(), !made);
        context.tell(EventKind::Segmented, &job.id, serde_json::json!({ "cutout": record.cutout })).await;
        Ok(Outcome::next(Task::Encode(EncodeTask { job, cutout: record.cutout, progress })))
    }

    /// A record counts only together with its cut-out; an unreadable one counts as none.
    async fn checked(&self, record: Option<Bytes>) -> Result<Option<Segmentation>, StageError> {
        let Some(bytes) = record else { return Ok(None) };
        let Ok(record) = serde_json::from_slice::<Segmentation>(&bytes) else { return Ok(None) };
        let stands = self.work.exists(&ObjectKey::of_content(layout::CUTOUTS, &record.cutout)?).await?;
        Ok(stands.then_some(record))
    }

    async fn make(
        &self,
        job: &Job,
        image: ContentHash,
        context: &StageContext,
    ) -> Result<(Segmentation, Bytes), StageError> {
        let bytes = self.picture(image).await?;
        let limits = self.limits;
        let measure = move || echogen_imaging::decoding_bytes(&bytes, &limits).map(|needed| (needed, bytes));
        let (needed, bytes) = off_thread(measure).await?.map_err(bad_image)?;
        // Who has room waits only for the detector, which takes none, so it never waits for one who waits for room.
        let room = self.memory.take(needed).await;
        // It goes along with the work, which runs to its end also when this task is dropped halfway.
        let (picture, room) = off_thread(move || (echogen_imaging::decode_image(&bytes, &limits), room)).await?;
        let picture = Arc::new(picture.map_err(bad_image)?);
        let found = self.detector.detect(Arc::clone(&picture), job, context.time_limit).await?;
        let Found { bounding_box, mask: outline, name, score, how } = found;
        let mode = job.subject.mask;
        let cut = move || (cut_out(&picture, bounding_box, outline.as_ref(), mode), room);
        let (png, room) = off_thread(cut).await?;
        drop(room);
        let png: Bytes = png.map_err(bad_image)?.into();
        let cutout = ContentHash::of(&png);
        let record = Segmentation { cutout, subject: SubjectFound { image, name, bounding_box, score, how } };
        Ok((record, png))
    }

    async fn store(&self, key: &ObjectKey, record: Segmentation, png: Bytes) -> Result<Segmentation, StageError> {
        self.work.put(&ObjectKey::of_content(layout::CUTOUTS, &record.cutout)?, png).await?;
        // The record last: whoever finds it finds the cut-out too.
        let record_bytes = serde_json::to_vec(&record).map_err(StageError::internal)?;
        self.work.put(key, record_bytes.into()).await?;
        Ok(record)
    }

    async fn picture(&self, image: ContentHash) -> Result<Bytes, StageError> {
        let key = ObjectKey::of_content(layout::IMAGES, &image)?;
        let max_bytes = limits::MAX_IMAGE_BYTES.max(self.limits.max_bytes);
        let bytes = match self.work.glance(&key, max_bytes).await? {
            Some(bytes) => Some(bytes),
            // Read once, so not worth the cache's room from now on.
            None => self.work.store().get(&key, max_bytes).await?,
        };
        bytes.ok_or_else(|| {
            let message = format!("the stored picture {image} is gone; run the job again");
            StageError::permanent(FailureKind::Internal, message)
        })
    }
}

/// The cutting out of one subject, for all who want it.
struct CutOut<'a> {
    stage: &'a Segmenter,
    key: &'a ObjectKey,
    job: &'a Job,
    image: ContentHash,
    /// See [`SharedWork::is_new`].
    is_new: bool,
    context: &'a StageContext,
}

#[async_trait]
impl SharedWork for CutOut<'_> {
    type Product = Segmentation;
    type Draft = (Segmentation, Bytes);
    type Error = StageError;

    fn is_new(&self) -> bool {
        self.is_new
    }

    async fn glance(&self) -> Result<Option<Segmentation>, StageError> {
        self.stage.checked(self.stage.work.glance(self.key, MAX_RECORD_BYTES).await?).await
    }

    async fn find(&self) -> Result<Option<Segmentation>, StageError> {
        self.stage.checked(self.stage.work.fetch(self.key, MAX_RECORD_BYTES).await?).await
    }

    async fn make(&self) -> Result<(Segmentation, Bytes), StageError> {
        self.stage.make(self.job, self.image, self.context).await
    }

    async fn store(&self, (record, png): (Segmentation, Bytes)) -> Result<Segmentation, StageError> {
        self.stage.store(self.key, record, png).await
    }
}

#[async_trait]
impl Stage for Segmenter {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    async fn run(&self, task: Task, context: &StageContext) -> Result<Outcome, StageError> {
        let Task::Segment(task) = task else {
            return Err(StageError::misplaced(&task, Self::NAME));
        };
        self.segment(task, context).await
    }
}

/// The cut-out as a PNG: white outside the outline where there is one, else outside the box.
fn cut_out(
    picture: &RgbImage,
    area: BoundingBox,
    outline: Option<&SubjectMask>,
    mode: MaskMode,
) -> Result<Vec<u8>, echogen_imaging::ImageError> {
    let BoundingBox { left, top, right, bottom } = area;
    let area = PixelBox { left, top, right, bottom };
    // A box outside the picture is a fault also where nothing is painted.
    area.check(picture.width(), picture.height())?;
    let cut = match outline {
        _ if mode == MaskMode::None => None,
        Some(outline) => Some(echogen_imaging::white_outside_mask(picture, outline)),
        None => Some(echogen_imaging::white_outside(picture, area)?),
    };
    echogen_imaging::encode_image(cut.as_ref().unwrap_or(picture), ImageFormat::Png, 100)
}

fn bad_image(error: echogen_imaging::ImageError) -> StageError {
    StageError::permanent(FailureKind::BadImage, error.to_string()).because(error)
}

#[cfg(test)]
mod tests;
