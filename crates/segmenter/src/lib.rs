//! The segmenter: locates the subject in a picture and paints everything else white.
//!
//! It decodes the stored picture within limits, asks its [`Detector`] where the subject is, and stores two objects:
//! the cut-out, a PNG under its own hash, and a small record of how it was made. The keys are derived from the
//! content, so a given picture, box and mask mode is cut out once, for any number of prompts, even if the tasks arrive
//! at the same moment in several processes.
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
use echogen_imaging::{ImageFormat, ImageLimits, PixelBox, RgbImage, SubjectMask};
use echogen_ports::{Fault, FaultKind, MemoryBudget, ObjectKey, spawn_blocking};
use echogen_protocol::{
    BoundingBox, ContentHash, EncodeTask, EventKind, Job, MaskMode, SegmentTask, Segmentation, StageName, SubjectFound,
    json::{self, Bounds},
    layout, limits,
};
use echogen_worker::{CachedObjects, Outcome, Product, Products, ProductsConfig, Stage, StageContext};

pub use detector::{DetectError, Detector, Found, GivenBox};
pub use finder::{FinderConfig, NetworkError, Selection, SubjectNetworks, find_subject};
pub use network_detector::NetworkDetector;

/// Maximum size of a [`Segmentation`] in bytes: it holds a few numbers and a name.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// The segmenter stage.
#[derive(Debug)]
pub struct Segmenter {
    limits: ImageLimits,
    detector: Arc<dyn Detector>,
    cutouts: Products<CutOut>,
    memory: MemoryBudget,
}

impl Segmenter {
    /// Creates a segmenter that decodes pictures of `objects` within `limits`, asks `detector`, and stores its
    /// products in `objects`.
    pub fn new(
        limits: ImageLimits,
        detector: Arc<dyn Detector>,
        objects: CachedObjects,
        config: &ProductsConfig,
    ) -> Self {
        let memory = MemoryBudget::new(config.picture_memory_bytes);
        Self { limits, detector, cutouts: Products::new(objects, config), memory }
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
        let cutout = self.cutouts.get_or_make(context, &key, progress.is_new(), make).await?;
        let found = cutout.is_found();
        let CutOut(record) = cutout.product;
        progress.models.extend(self.detector.models());
        progress.subject = Some(record.subject_of(&job));
        progress.cutout = Some(record.cutout);
        progress.note(StageName::Segmenter, started.elapsed().as_secs_f64(), found);
        context.publish_new(EventKind::Segmented, &job.id, serde_json::json!({ "cutout": record.cutout })).await;
        Ok(Outcome::next(&EncodeTask { job, cutout: record.cutout, progress }))
    }

    /// Locates the subject and cuts it out.
    async fn make(
        &self,
        job: &Job,
        image: ContentHash,
        context: &StageContext,
    ) -> Result<(Segmentation, Bytes), Fault> {
        let (bytes, limits) = (self.picture(image).await?, self.limits);
        let measure = move |bytes: &Bytes| echogen_imaging::decoding_bytes(bytes, &limits).map_err(bad_image);
        let decode = move |bytes: &Bytes| echogen_imaging::decode_image(bytes, &limits).map_err(bad_image);
        // This order prevents a deadlock: a task that holds a memory permit waits only for the detector, which needs
        // no memory permit, so it never waits for a task that waits for memory.
        let (picture, memory) = self.memory.load(bytes, measure, decode).await?;
        let picture = Arc::new(picture);
        let found = self.detector.detect(Arc::clone(&picture), job, context.time_limit.until()).await?;
        let Found { bounding_box, mask: outline, name, score, how } = found;
        let mode = job.subject.mask;
        let cut = move || {
            // The closure owns the memory permit, because the work runs to its end even if this task's future is
            // dropped.
            let _memory = memory;
            cut_out(&picture, bounding_box, outline.as_ref(), mode)
        };
        let png: Bytes = spawn_blocking(cut).await?.map_err(bad_image)?.into();
        let cutout = ContentHash::of(&png);
        let record = Segmentation { cutout, subject: SubjectFound { image, name, bounding_box, score, how } };
        Ok((record, png))
    }

    async fn picture(&self, image: ContentHash) -> Result<Bytes, Fault> {
        let (objects, key) = (self.cutouts.objects(), ObjectKey::of_content(layout::IMAGES, &image)?);
        let max_bytes = limits::MAX_IMAGE_BYTES.max(self.limits.max_bytes);
        let bytes = match objects.get_cached(&key, max_bytes).await? {
            Some(bytes) => Some(bytes),
            // The picture is read once only, so it is not put into the cache.
            None => objects.store().get(&key, max_bytes).await?,
        };
        bytes.ok_or_else(|| {
            let message = format!("the stored picture {image} is gone; run the job again");
            Fault::not_found(message)
        })
    }
}

/// A cut-out as it is stored: a PNG under its own hash, and a small record of how it was made, under a key of
/// everything it depends on.
#[derive(Clone, Debug)]
struct CutOut(Segmentation);

impl CutOut {
    /// Returns the cut-out only if both its record and its PNG exist. An unreadable record is treated as absent.
    async fn read(objects: &CachedObjects, record: Option<Bytes>) -> Result<Option<Self>, Fault> {
        let Some(bytes) = record else { return Ok(None) };
        let Ok(record) = json::read::<Segmentation>(&bytes, &Bounds::MESSAGE) else { return Ok(None) };
        let stands = objects.exists(&ObjectKey::of_content(layout::CUTOUTS, &record.cutout)?).await?;
        Ok(stands.then_some(Self(record)))
    }
}

#[async_trait]
impl Product for CutOut {
    type Draft = (Segmentation, Bytes);

    async fn get_cached(objects: &CachedObjects, key: &ObjectKey) -> Result<Option<Self>, Fault> {
        Self::read(objects, objects.get_cached(key, MAX_RECORD_BYTES).await?).await
    }

    async fn get_stored(objects: &CachedObjects, key: &ObjectKey) -> Result<Option<Self>, Fault> {
        Self::read(objects, objects.get_stored(key, MAX_RECORD_BYTES).await?).await
    }

    async fn store(objects: &CachedObjects, key: &ObjectKey, draft: (Segmentation, Bytes)) -> Result<Self, Fault> {
        let (record, png) = draft;
        objects.put(&ObjectKey::of_content(layout::CUTOUTS, &record.cutout)?, png).await?;
        let record_bytes =
            serde_json::to_vec(&record).map_err(|error| Fault::from_error(FaultKind::Internal, error))?;
        // The PNG must be stored before the record: a reader that found the record without its PNG would make both
        // again.
        objects.put(key, record_bytes.into()).await?;
        Ok(Self(record))
    }
}

#[async_trait]
impl Stage for Segmenter {
    type Task = SegmentTask;

    async fn run(&self, task: SegmentTask, context: &StageContext) -> Result<Outcome, Fault> {
        self.segment(task, context).await
    }
}

/// Encodes the cut-out as a PNG: white outside the outline if there is one, otherwise outside the box.
fn cut_out(
    picture: &RgbImage,
    area: BoundingBox,
    outline: Option<&SubjectMask>,
    mode: MaskMode,
) -> Result<Vec<u8>, echogen_imaging::ImageError> {
    let BoundingBox { left, top, right, bottom } = area;
    let area = PixelBox { left, top, right, bottom };
    // A box outside the picture is an error even if nothing is painted.
    area.check(picture.width(), picture.height())?;
    let cut = match outline {
        _ if mode == MaskMode::None => None,
        Some(outline) => Some(echogen_imaging::white_outside_mask(picture, outline)),
        None => Some(echogen_imaging::white_outside(picture, area)?),
    };
    echogen_imaging::encode_image(cut.as_ref().unwrap_or(picture), ImageFormat::Png, 100)
}

fn bad_image(error: echogen_imaging::ImageError) -> Fault {
    Fault::from_error(FaultKind::BadImage, error)
}

#[cfg(test)]
mod tests;
