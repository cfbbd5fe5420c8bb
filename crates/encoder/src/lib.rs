//! The encoder: turns a cut-out into an encoded subject, once.
//!
//! The product is stored in the object store, from which later stages can always read it, and in the cache, where the
//! sampler reads it faster. Its key covers everything it depends on: the cut-out, the networks and the resolution. If
//! many jobs ask for the same subject at the same moment, they all wait for one encoding, across processes too.
//!
//! The networks are behind [`SubjectEncoder`], so that this stage's tests need no weights. [`NetworkEncoder`] is the
//! implementation on a bundle's networks.

mod network_encoder;
mod subject_encoder;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_imaging::ImageLimits;
use echogen_ports::{Fault, FaultKind, KeyError, MemoryBudget, ObjectKey};
use echogen_protocol::{
    ContentHash, EncodeTask, EventKind, Job, Progress, SampleTask, SegmentTask, StageName, SubjectKeys, layout,
};
use echogen_worker::{CachedObjects, Outcome, Products, ProductsConfig, Stage, StageContext, StoredObject};

pub use network_encoder::NetworkEncoder;
pub use subject_encoder::{EncodeError, SubjectEncoder};

/// Maximum size of a cut-out in bytes: it has no more pixels than a picture may have.
const MAX_CUTOUT_BYTES: u64 = 256 * 1024 * 1024;

/// The encoder stage.
#[derive(Debug)]
pub struct Encoder {
    keys: SubjectKeys,
    networks: Arc<dyn SubjectEncoder>,
    subjects: Products<StoredObject>,
    memory: MemoryBudget,
}

impl Encoder {
    /// Creates an encoder that reads cut-outs from `objects` and stores encoded subjects there.
    pub fn new(
        keys: SubjectKeys,
        networks: Arc<dyn SubjectEncoder>,
        objects: CachedObjects,
        config: &ProductsConfig,
    ) -> Self {
        let memory = MemoryBudget::new(config.picture_memory_bytes);
        Self { keys, networks, subjects: Products::new(objects, config), memory }
    }

    async fn encode(&self, task: EncodeTask, context: &StageContext) -> Result<Outcome, Fault> {
        let started = Instant::now();
        let EncodeTask { job, cutout, mut progress } = task;
        context.check_settings("encoding networks", &self.keys.encoders, |theirs| theirs == self.keys.encoders)?;
        let resolution = self.keys.resolution(&job).map_err(Fault::unsupported)?;
        let key = ObjectKey::of_content(layout::SUBJECTS, &self.keys.inputs(cutout, resolution))?;
        let make = || self.make(cutout, resolution, context);
        let subject = match self.subjects.get_or_make(context, &key, progress.is_new(), make).await {
            Ok(subject) => subject,
            Err(NotEncoded::CutoutGone) => return segment_again(job, progress),
            Err(NotEncoded::Failed(error)) => return Err(error),
        };
        progress.models.extend(self.networks.models());
        progress.note(StageName::Encoder, started.elapsed().as_secs_f64(), subject.is_found());
        context.publish_new(EventKind::Encoded, &job.id, serde_json::json!({ "subject": key.as_str() })).await;
        let encoded_subject = key.as_str().to_owned();
        Ok(Outcome::next(&SampleTask { job, encoded_subject, progress }))
    }

    /// Encodes a cut-out. The cut-out was written by the segmenter from a picture within the limits, so only its size
    /// in bytes is checked again.
    async fn make(&self, cutout: ContentHash, resolution: u32, context: &StageContext) -> Result<Bytes, NotEncoded> {
        let key = ObjectKey::of_content(layout::CUTOUTS, &cutout)?;
        let png = self.subjects.objects().get(&key, MAX_CUTOUT_BYTES).await?.ok_or(NotEncoded::CutoutGone)?;
        let limits = ImageLimits { max_bytes: MAX_CUTOUT_BYTES, ..ImageLimits::default() };
        let measure = move |png: &Bytes| echogen_imaging::decoding_bytes(png, &limits).map_err(broken);
        let decode = move |png: &Bytes| echogen_imaging::decode_image(png, &limits).map_err(broken);
        // The memory permit is held until the subject is encoded. This order prevents a deadlock: a task that holds a
        // memory permit waits only for the networks, which need none, so it never waits for a task that waits for
        // memory.
        let (picture, _memory) = self.memory.load(png, measure, decode).await?;
        let encoded = self.networks.encode(Arc::new(picture), resolution, context.time_limit.until()).await;
        Ok(encoded.map_err(Fault::from)?.into())
    }
}

#[async_trait]
impl Stage for Encoder {
    type Task = EncodeTask;

    async fn run(&self, task: EncodeTask, context: &StageContext) -> Result<Outcome, Fault> {
        self.encode(task, context).await
    }
}

/// Why there is no encoded subject.
#[derive(Debug)]
enum NotEncoded {
    /// The cut-out was deleted after the task was published.
    CutoutGone,
    /// Anything else.
    Failed(Fault),
}

impl From<Fault> for NotEncoded {
    fn from(error: Fault) -> Self {
        Self::Failed(error)
    }
}

impl From<KeyError> for NotEncoded {
    fn from(error: KeyError) -> Self {
        Self::Failed(error.into())
    }
}

/// A stored cut-out that cannot be decoded.
fn broken(error: echogen_imaging::ImageError) -> Fault {
    Fault::from_error(FaultKind::Internal, error)
}

/// Sends the job back to the segmenter, which makes the cut-out again.
fn segment_again(job: Job, progress: Progress) -> Result<Outcome, Fault> {
    let Some(subject) = &progress.subject else {
        return Err(Fault::not_found("the stored cut-out is gone; run the job again"));
    };
    let image = subject.image;
    Ok(Outcome::next(&SegmentTask { job, image, progress }))
}

#[cfg(test)]
mod tests;
