//! The dispatcher: receives jobs and routes each to the first stage whose product does not exist yet.
//!
//! It validates the job, fetches the subject's picture once, checks its size, hashes it, stores it, and looks up which
//! products already exist: a finished result, an encoded subject, a cut-out. The tasks it publishes contain references
//! only, never pixels.
//!
//! It does not decode pictures. The segmenter decides whether the bytes are a picture, so this stage needs no image
//! code and an invalid job costs microseconds.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, ImageFetcher, ObjectKey, spawn_blocking};
use echogen_protocol::{
    ContentHash, EncodeTask, EventKind, ImageLocation, ImageSource, Job, NextTask, Progress, SampleTask, SegmentTask,
    Segmentation, StageName, SubjectKeys,
    json::{self, Bounds},
    layout, limits,
};
use echogen_worker::{CachedObjects, Outcome, ResultWriter, Stage, StageContext};
use serde::{Deserialize, Serialize};

/// Maximum size of a [`Segmentation`] in bytes: it holds a few numbers and a name.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// A picture of up to this many bytes is hashed on the async thread (about half a millisecond) and stored without
/// first asking whether it exists.
const SMALL_BYTES: usize = 256 * 1024;

/// What the dispatcher must know about the other stages' configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatcherConfig {
    /// How the keys of encoded subjects are computed.
    pub subjects: SubjectKeys,
    /// Largest picture that is fetched, in bytes.
    #[serde(default = "default_max_image_bytes")]
    pub max_image_bytes: u64,
}

fn default_max_image_bytes() -> u64 {
    limits::MAX_IMAGE_BYTES
}

/// The dispatcher stage.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    config: DispatcherConfig,
    fetcher: Arc<dyn ImageFetcher>,
    objects: CachedObjects,
    results: ResultWriter,
}

impl Dispatcher {
    /// Creates a dispatcher that fetches with `fetcher`, stores pictures in `objects`, and looks up existing products
    /// there.
    pub fn new(
        config: DispatcherConfig,
        fetcher: Arc<dyn ImageFetcher>,
        objects: CachedObjects,
        results: ResultWriter,
    ) -> Self {
        Self { config, fetcher, objects, results }
    }

    async fn dispatch(&self, mut job: Job, context: &StageContext) -> Result<Outcome, Fault> {
        let started = Instant::now();
        if self.results.is_noted(&job, &context.metadata).await? {
            return Ok(Outcome::Done);
        }
        self.results.remember(&job);
        let resolution = self.config.subjects.resolution(&job).map_err(Fault::unsupported)?;
        let (image, bytes) = self.identify(&job.subject.image).await?;
        let known = self.keep(image, bytes).await?;
        // If the picture was not in the store, no product of it exists.
        let record = if known { self.segmentation(image, &job).await? } else { None };
        if job.subject.image.is_inline() {
            job.subject.image = ImageSource::stored(image);
        }
        let id = job.id.clone();
        let way = self.shortest_way(record, resolution).await?;
        let next = way.with(job, image, started, known, &self.config.subjects);
        context.publish_new(EventKind::Accepted, &id, serde_json::json!({ "image": image })).await;
        Ok(Outcome::Next(vec![next]))
    }

    /// Fetches and hashes the picture. A source that refers to a stored picture yields its hash and no bytes.
    async fn identify(&self, source: &ImageSource) -> Result<(ContentHash, Option<Bytes>), Fault> {
        if let ImageLocation::Stored(image) = source.location()? {
            return Ok((image, None));
        }
        let bytes = self.fetcher.fetch(source, self.config.max_image_bytes).await?;
        if bytes.is_empty() {
            return Err(Fault::bad_image(format!("{source} is empty; send a png, jpeg or webp")));
        }
        Ok((hash(&bytes).await?, Some(bytes)))
    }

    /// Stores the picture; returns whether it was in the store already.
    async fn keep(&self, image: ContentHash, bytes: Option<Bytes>) -> Result<bool, Fault> {
        let key = ObjectKey::of_content(layout::IMAGES, &image)?;
        match bytes {
            // One call stores the picture and reports whether it existed: uploading a small picture needlessly is
            // cheaper than a separate existence check. A new picture is also put into the cache, where the segmenter
            // reads it.
            Some(bytes) if bytes.len() <= SMALL_BYTES => Ok(!self.objects.put_if_absent(&key, bytes).await?),
            _ if self.objects.exists(&key).await? => Ok(true),
            Some(bytes) => {
                self.objects.store().put(&key, bytes).await?;
                Ok(false)
            }
            None => {
                let message = format!("no picture with the hash {image} is stored; send the picture itself");
                Err(Fault::bad_image(message))
            }
        }
    }

    /// Looks for the latest product that exists: an encoded subject, a cut-out, or only the picture.
    async fn shortest_way(&self, record: Option<Segmentation>, resolution: u32) -> Result<Way, Fault> {
        let Some(record) = record else { return Ok(Way::Segment) };
        let subject = ObjectKey::of_content(layout::SUBJECTS, &self.config.subjects.inputs(record.cutout, resolution))?;
        if self.objects.is_cached(&subject).await || self.objects.exists(&subject).await? {
            return Ok(Way::Sample(record, subject));
        }
        let has_cutout = self.objects.exists(&ObjectKey::of_content(layout::CUTOUTS, &record.cutout)?).await?;
        Ok(if has_cutout { Way::Encode(record) } else { Way::Segment })
    }

    /// Returns the record of the cut-out. An unreadable record is treated as absent, and the segmenter writes it
    /// again.
    async fn segmentation(&self, image: ContentHash, job: &Job) -> Result<Option<Segmentation>, Fault> {
        let key = ObjectKey::of_content(
            layout::SEGMENTATIONS,
            &layout::segmentation_inputs(image, job, &self.config.subjects.finders),
        )?;
        let bytes = self.objects.get(&key, MAX_RECORD_BYTES).await?;
        Ok(bytes.and_then(|bytes| json::read(&bytes, &Bounds::MESSAGE).ok()))
    }
}

#[async_trait]
impl Stage for Dispatcher {
    type Task = Job;

    async fn run(&self, job: Job, context: &StageContext) -> Result<Outcome, Fault> {
        self.dispatch(job, context).await
    }
}

/// Hashes a picture; a large one on the blocking thread pool, because hashing it takes longer than the switch.
async fn hash(bytes: &Bytes) -> Result<ContentHash, Fault> {
    if bytes.len() <= SMALL_BYTES {
        return Ok(ContentHash::of(bytes));
    }
    let bytes = bytes.clone();
    spawn_blocking(move || ContentHash::of(&bytes)).await
}

/// The stage at which a job continues: the first one whose product does not exist.
enum Way {
    Segment,
    Encode(Segmentation),
    Sample(Segmentation, ObjectKey),
}

impl Way {
    /// Creates the next task. Its progress records the dispatcher's duration and which later stages are skipped. It carries
    /// the settings with which the dispatcher looks up the product: one made with other settings would never be found.
    fn with(self, job: Job, image: ContentHash, started: Instant, known: bool, keys: &SubjectKeys) -> NextTask {
        let mut progress = Progress::default();
        progress.note(StageName::Dispatcher, started.elapsed().as_secs_f64(), known);
        if let Self::Encode(record) | Self::Sample(record, _) = &self {
            progress.note(StageName::Segmenter, 0.0, true);
            (progress.subject, progress.cutout) = (Some(record.subject_of(&job)), Some(record.cutout));
        }
        match self {
            Self::Segment => NextTask::of(&SegmentTask { job, image, progress }).with_settings(&keys.finders),
            Self::Encode(record) => {
                NextTask::of(&EncodeTask { job, cutout: record.cutout, progress }).with_settings(&keys.encoders)
            }
            Self::Sample(_, subject) => {
                progress.note(StageName::Encoder, 0.0, true);
                NextTask::of(&SampleTask { job, encoded_subject: subject.as_str().to_owned(), progress })
            }
        }
    }
}

#[cfg(test)]
mod tests;
