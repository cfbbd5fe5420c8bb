//! The dispatcher: a job comes in, and takes the shortest way to its pictures.
//!
//! It checks the job, fetches the subject's picture once, bounds and hashes it, stores it, and looks up what exists
//! already: a finished result, an encoded subject, a cut-out. What it hands on holds references only, never pixels.
//!
//! Deliberately absent: any decoding. Whether the bytes are a picture at all is the segmenter's to say, so this stage
//! needs no image code and costs a bad job microseconds.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Fault, ImageFetcher, ObjectKey, spawn_blocking};
use echogen_protocol::{
    ContentHash, EncodeTask, EventKind, ImageLocation, ImageSource, Job, Progress, SampleTask, SegmentTask,
    Segmentation, StageName, SubjectKeys, layout, limits,
};
use echogen_worker::{CachedObjects, Outcome, ResultWriter, Stage, StageContext};
use serde::{Deserialize, Serialize};

/// Bytes of a [`Segmentation`]: a handful of numbers and a name.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// A picture up to so many bytes is hashed where it is, in half a millisecond or so, and stored without asking whether
/// it is there.
const SMALL_BYTES: usize = 256 * 1024;

/// What the dispatcher has to know about the rest of the installation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatcherConfig {
    /// Under which keys encoded subjects lie.
    pub subjects: SubjectKeys,
    /// Largest picture that is fetched, in bytes.
    #[serde(default = "default_max_image_bytes")]
    pub max_image_bytes: u64,
}

fn default_max_image_bytes() -> u64 {
    limits::MAX_IMAGE_BYTES
}

/// The stage.
#[derive(Clone, Debug)]
pub struct Dispatcher {
    config: DispatcherConfig,
    fetcher: Arc<dyn ImageFetcher>,
    objects: CachedObjects,
    results: ResultWriter,
}

impl Dispatcher {
    /// A dispatcher that fetches with `fetcher`, leaves pictures in `objects`, and looks there for what was made of them.
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
        if let Some(result) = self.results.find_noted(&job).await? {
            // The first telling may have been lost, and this one may be asked for by somebody else.
            self.results.tell(&job, &result, &context.facts).await?;
            return Ok(Outcome::Done);
        }
        let resolution = self.config.subjects.resolution(&job).map_err(Fault::unsupported)?;
        let (image, bytes) = self.identify(&job.subject.image).await?;
        let known = self.keep(image, bytes).await?;
        // Of a picture that is new nothing has been made.
        let record = if known { self.segmentation(image, &job).await? } else { None };
        if job.subject.image.is_inline() {
            job.subject.image = ImageSource::stored(image);
        }
        let id = job.id.clone();
        let way = self.shortest_way(record, resolution).await?;
        let next = way.with(job, image, started, known);
        context.tell(EventKind::Accepted, &id, serde_json::json!({ "image": image })).await;
        Ok(next)
    }

    /// Fetches and hashes the picture; of one that should be stored already there are no bytes.
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
            // One call does for both: sending a small picture in vain is cheaper than asking first. Of a new one the
            // segmenter finds a copy in the cache.
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

    /// The record of the cut-out; an unreadable one counts as none and is made again.
    async fn segmentation(&self, image: ContentHash, job: &Job) -> Result<Option<Segmentation>, Fault> {
        let key = ObjectKey::of_content(
            layout::SEGMENTATIONS,
            &layout::segmentation_inputs(image, job, &self.config.subjects.finders),
        )?;
        let bytes = self.objects.get(&key, MAX_RECORD_BYTES).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}

#[async_trait]
impl Stage for Dispatcher {
    type Task = Job;

    async fn run(&self, job: Job, context: &StageContext) -> Result<Outcome, Fault> {
        self.dispatch(job, context).await
    }
}

/// Hashes a picture; away from the async threads where it takes longer than going there.
async fn hash(bytes: &Bytes) -> Result<ContentHash, Fault> {
    if bytes.len() <= SMALL_BYTES {
        return Ok(ContentHash::of(bytes));
    }
    let bytes = bytes.clone();
    Ok(spawn_blocking(move || ContentHash::of(&bytes)).await?)
}

/// Where a job goes on: at the first stage whose product does not exist.
enum Way {
    Segment,
    Encode(Segmentation),
    Sample(Segmentation, ObjectKey),
}

impl Way {
    /// The next task. It notes the dispatcher's own share, and which later stages the short way leaves out.
    fn with(self, job: Job, image: ContentHash, started: Instant, known: bool) -> Outcome {
        let mut progress = Progress::default();
        progress.note(StageName::Dispatcher, started.elapsed().as_secs_f64(), known);
        if let Self::Encode(record) | Self::Sample(record, _) = &self {
            progress.note(StageName::Segmenter, 0.0, true);
            (progress.subject, progress.cutout) = (Some(record.subject_of(&job)), Some(record.cutout));
        }
        match self {
            Self::Segment => Outcome::next(&SegmentTask { job, image, progress }),
            Self::Encode(record) => Outcome::next(&EncodeTask { job, cutout: record.cutout, progress }),
            Self::Sample(_, subject) => {
                progress.note(StageName::Encoder, 0.0, true);
                Outcome::next(&SampleTask { job, encoded_subject: subject.as_str().to_owned(), progress })
            }
        }
    }
}

#[cfg(test)]
mod tests;
