//! The encoder: a cut-out becomes an encoded subject, once.
//!
//! The product lies in the object store, the durable hand-over, and in the cache, for the sampler's convenience, under
//! a key of everything it depends on: the cut-out, the networks and the resolution. Many jobs that ask for the same
//! subject at the same moment wait for one encoding, in this process and in others.
//!
//! The networks are behind [`SubjectEncoder`], so that this stage's tests need no weights; [`NetworkEncoder`] is the
//! real one.

mod network_encoder;
mod subject_encoder;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_imaging::{ImageLimits, RgbImage};
use echogen_ports::{Cache, ObjectKey, ObjectStore, PortError};
use echogen_protocol::{
    ContentHash, EncodeTask, EventKind, FailureKind, Job, KeyError, Progress, SampleTask, SegmentTask, SubjectKeys,
    Task, layout,
};
use echogen_worker::{
    CachedObjects, LeaseConfig, MemoryBudget, Outcome, Room, Shared, SharedFlight, SharedWork, SingleFlight, Stage,
    StageContext, StageError, off_thread,
};

pub use network_encoder::NetworkEncoder;
pub use subject_encoder::{EncodeError, SubjectEncoder};

/// Bytes of a cut-out: it has no more pixels than a picture may have.
const MAX_CUTOUT_BYTES: u64 = 256 * 1024 * 1024;

/// Memory for the cut-outs of all tasks at work: one of the largest size, or five of twelve megapixels.
const PICTURE_MEMORY_BYTES: u64 = 1024 * 1024 * 1024;

/// The stage.
#[derive(Debug)]
pub struct Encoder {
    keys: SubjectKeys,
    networks: Arc<dyn SubjectEncoder>,
    work: CachedObjects,
    flights: SingleFlight<ObjectKey, ()>,
    shared: SharedFlight,
    memory: MemoryBudget,
}

impl Encoder {
    /// The stage's name in logs, timings and metrics.
    pub const NAME: &'static str = "encoder";

    /// An encoder that reads cut-outs from `work` and leaves encoded subjects there and in `cache`, which also holds the
    /// leases by which the encoders of several processes agree on one.
    pub fn new(
        keys: SubjectKeys,
        networks: Arc<dyn SubjectEncoder>,
        work: Arc<dyn ObjectStore>,
        cache: Arc<dyn Cache>,
    ) -> Self {
        let work = CachedObjects::new(work, Arc::clone(&cache));
        let shared = SharedFlight::new(cache, LeaseConfig::default());
        let memory = MemoryBudget::new(PICTURE_MEMORY_BYTES);
        Self { keys, networks, work, flights: SingleFlight::new(), shared, memory }
    }

    async fn encode(&self, task: EncodeTask, context: &StageContext) -> Result<Outcome, StageError> {
        let started = Instant::now();
        let EncodeTask { job, cutout, mut progress } = task;
        let resolution =
            self.keys.resolution(&job).map_err(|fault| StageError::permanent(FailureKind::Unsupported, fault))?;
        let key = ObjectKey::of_content(layout::SUBJECTS, &self.keys.inputs(cutout, resolution))?;
        let mut made = false;
        let is_new = progress.is_new();
        let encoding = Encoding { stage: self, key: &key, cutout, resolution, is_new, time_limit: context.time_limit };
        let found = self
            .flights
            .run(&key, async {
                let shared = self.shared.run_for(context, key.as_str(), &encoding).await?;
                made = matches!(shared, Shared::Made(()));
                Ok(())
            })
            .await;
        match found {
            Ok(()) => {}
            Err(Fault::CutoutGone) => return segment_again(job, progress),
            Err(Fault::Stage(error)) => return Err(error),
        }
        progress.models.extend(self.networks.models());
        progress.note(Self::NAME, started.elapsed().as_secs_f64(), !made);
        context.tell(EventKind::Encoded, &job.id, serde_json::json!({ "subject": key.as_str() })).await;
        let encoded_subject = key.as_str().to_owned();
        Ok(Outcome::next(Task::Sample(SampleTask { job, encoded_subject, progress })))
    }

    /// Decodes a cut-out as soon as there is room. It is our own PNG of a picture that passed the limits, so only its
    /// size in bytes is bounded anew.
    async fn decode(&self, png: Bytes) -> Result<(RgbImage, Room), StageError> {
        let limits = ImageLimits { max_bytes: MAX_CUTOUT_BYTES, ..ImageLimits::default() };
        let measure = move || echogen_imaging::decoding_bytes(&png, &limits).map(|needed| (needed, png));
        let (needed, png) = off_thread(measure).await?.map_err(StageError::internal)?;
        let room = self.memory.take(needed).await;
        // It goes along with the work, which runs to its end also when this task is dropped halfway.
        let (picture, room) = off_thread(move || (echogen_imaging::decode_image(&png, &limits), room)).await?;
        Ok((picture.map_err(StageError::internal)?, room))
    }
}

/// The encoding of one cut-out, for all who want it.
struct Encoding<'a> {
    stage: &'a Encoder,
    key: &'a ObjectKey,
    cutout: ContentHash,
    resolution: u32,
    /// See [`SharedWork::is_new`].
    is_new: bool,
    time_limit: tokio::time::Instant,
}

#[async_trait]
impl SharedWork for Encoding<'_> {
    type Product = ();
    type Draft = Bytes;
    type Error = Fault;

    fn is_new(&self) -> bool {
        self.is_new
    }

    async fn glance(&self) -> Result<Option<()>, Fault> {
        Ok(self.stage.work.is_cached(self.key).await.then_some(()))
    }

    async fn find(&self) -> Result<Option<()>, Fault> {
        Ok(self.stage.work.exists(self.key).await?.then_some(()))
    }

    async fn make(&self) -> Result<Bytes, Fault> {
        let key = ObjectKey::of_content(layout::CUTOUTS, &self.cutout)?;
        let png = self.stage.work.get(&key, MAX_CUTOUT_BYTES).await?;
        // Who has room waits only for the networks, which take none, so it never waits for one who waits for room.
        let (picture, _room) = self.stage.decode(png.ok_or(Fault::CutoutGone)?).await?;
        let encoded = self.stage.networks.encode(Arc::new(picture), self.resolution, self.time_limit).await;
        Ok(encoded.map_err(StageError::from)?.into())
    }

    async fn store(&self, subject: Bytes) -> Result<(), Fault> {
        Ok(self.stage.work.put(self.key, subject).await?)
    }
}

#[async_trait]
impl Stage for Encoder {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    async fn run(&self, task: Task, context: &StageContext) -> Result<Outcome, StageError> {
        let Task::Encode(task) = task else {
            return Err(StageError::misplaced(&task, Self::NAME));
        };
        self.encode(task, context).await
    }
}

/// Why there is no encoded subject.
#[derive(Debug)]
enum Fault {
    /// The cut-out was deleted in between.
    CutoutGone,
    /// Anything else.
    Stage(StageError),
}

impl From<StageError> for Fault {
    fn from(error: StageError) -> Self {
        Self::Stage(error)
    }
}

impl From<PortError> for Fault {
    fn from(error: PortError) -> Self {
        Self::Stage(error.into())
    }
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        Self::Stage(error.into())
    }
}

/// The cut-out is made again from the picture.
fn segment_again(job: Job, progress: Progress) -> Result<Outcome, StageError> {
    let Some(subject) = &progress.subject else {
        return Err(StageError::permanent(FailureKind::Internal, "the stored cut-out is gone; run the job again"));
    };
    let image = subject.image;
    Ok(Outcome::next(Task::Segment(SegmentTask { job, image, progress })))
}

#[cfg(test)]
mod tests;
