//! The dispatcher: receives jobs and routes each to the first stage whose product does not exist yet.
//!
//! It validates the job, fetches the subject's picture once, checks its size, hashes it, stores it, and looks up which
//! products already exist: a finished result, an encoded subject, a segmentation. The tasks it publishes contain references
//! only, never pixels.
//!
//! A job of a known subject takes no call of the work store, as long as the cache has segmentation and encoded subject and
//! notes that the picture is stored. In all other cases the picture is stored first, or seen to be stored: a later stage
//! that finds another product gone makes it again from the picture.
//!
//! It does not decode pictures. The segmenter decides whether the bytes are a picture, so this stage needs no image
//! code and an invalid job costs microseconds.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{
    ContentGate, Fault, GateContent, GatePlace, GateSubject, ImageFetcher, ObjectKey, Verdict, spawn_blocking,
};
use echogen_protocol::{
    ContentHash, EncodeTask, EventKind, ImageLocation, ImageSource, Job, NextTask, Progress, SampleTask, SegmentTask,
    Segmentation, StageName, SubjectKeys, layout, limits,
};
use echogen_worker::{CachedObjects, Outcome, Product, ResultWriter, Stage, StageContext};
use serde::{Deserialize, Serialize};

/// A picture of up to this many bytes is hashed on the async thread, which takes about half a millisecond.
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
    gate: Option<Arc<dyn ContentGate>>,
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
        Self { config, fetcher, objects, results, gate: None }
    }

    /// The same dispatcher, which uses only pictures that the gate allows.
    #[must_use]
    pub fn with_gate(self, gate: Option<Arc<dyn ContentGate>>) -> Self {
        Self { gate, ..self }
    }

    async fn dispatch(&self, mut job: Job, context: &StageContext) -> Result<Outcome, Fault> {
        let started = Instant::now();
        if self.results.is_noted(&job, &context.metadata).await? {
            return Ok(Outcome::Done);
        }
        self.results.remember(&job);
        let resolution = self.config.subjects.resolution(&job).map_err(Fault::unsupported)?;
        let (image, bytes) = self.identify(&job.subject.image).await?;
        self.check(&job, image, bytes.as_ref()).await?;
        let (known, way) = match self.cached_way(image, &job, resolution).await? {
            Some(way) => (true, way),
            None => self.stored_way(image, bytes, &job, resolution).await?,
        };
        if job.subject.image.is_inline() {
            job.subject.image = ImageSource::stored(image);
        }
        let id = job.id.clone();
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

    /// Fails if the content gate withholds the picture, before it is stored; also one that another job has stored, as the gate
    /// may decide by job and tenant.
    async fn check(&self, job: &Job, image: ContentHash, bytes: Option<&Bytes>) -> Result<(), Fault> {
        let Some(gate) = self.gate.as_ref().filter(|gate| gate.checks(GatePlace::Subject)) else { return Ok(()) };
        let bytes = match bytes {
            Some(bytes) => bytes.clone(),
            None => self.stored(image).await?,
        };
        let content = GateContent::SubjectImage(bytes);
        match gate.check(GateSubject { job: job.id.clone(), tenant: job.tenant.clone(), content }).await? {
            Verdict::Allowed => Ok(()),
            Verdict::Withheld { reason } => {
                Err(Fault::withheld(format!("the subject's picture is withheld: {reason}")))
            }
        }
    }

    /// Returns a picture that the job names by its hash.
    async fn stored(&self, image: ContentHash) -> Result<Bytes, Fault> {
        let key = ObjectKey::of_content(layout::IMAGES, &image)?;
        let found = self.objects.get(&key, self.config.max_image_bytes).await?;
        found.ok_or_else(|| not_stored(image))
    }

    /// Returns the way of a job whose picture is noted to be stored and whose encoded subject is in the cache.
    async fn cached_way(&self, image: ContentHash, job: &Job, resolution: u32) -> Result<Option<Way>, Fault> {
        if !self.objects.was_stored(&ObjectKey::of_content(layout::IMAGES, &image)?).await {
            return Ok(None);
        }
        let Some(found) = self.segmentation(image, job).await? else { return Ok(None) };
        let cached = self.cached_subject(&self.subjects_of(&found, resolution)?).await;
        Ok(cached.map(|subject| Way::Sample(found, subject)))
    }

    /// Stores the picture and returns whether it was stored already, and the way of the job.
    async fn stored_way(
        &self,
        image: ContentHash,
        bytes: Option<Bytes>,
        job: &Job,
        resolution: u32,
    ) -> Result<(bool, Way), Fault> {
        if !self.keep(image, bytes).await? {
            // The picture was not in the store, so no product of it exists.
            return Ok((false, Way::Segment));
        }
        let found = self.segmentation(image, job).await?;
        Ok((true, self.shortest_way(found, resolution).await?))
    }

    /// Stores the picture; returns whether it was in the store already.
    async fn keep(&self, image: ContentHash, bytes: Option<Bytes>) -> Result<bool, Fault> {
        let key = ObjectKey::of_content(layout::IMAGES, &image)?;
        match bytes {
            // One call stores the picture and reports whether it existed: uploading a picture needlessly, once in the
            // time of a note, is cheaper than a separate call for every new one. A new picture is also put into the
            // cache, where the segmenter and the encoder read it.
            Some(bytes) => Ok(!self.objects.put_if_absent(&key, bytes).await?),
            None if self.objects.confirm(&key).await? => Ok(true),
            None => Err(not_stored(image)),
        }
    }

    /// Looks for the latest product that exists: an encoded subject, a segmentation, or only the picture.
    async fn shortest_way(&self, found: Option<Segmentation>, resolution: u32) -> Result<Way, Fault> {
        let Some(found) = found else { return Ok(Way::Segment) };
        let subjects = self.subjects_of(&found, resolution)?;
        if let Some(subject) = self.cached_subject(&subjects).await {
            return Ok(Way::Sample(found, subject));
        }
        for subject in subjects {
            if self.objects.exists(&subject).await? {
                return Ok(Way::Sample(found, subject));
            }
        }
        Ok(Way::Encode(found))
    }

    /// Returns the keys that the encoded subject may have; more than one if the encoder's device decides on the type.
    fn subjects_of(&self, found: &Segmentation, resolution: u32) -> Result<Vec<ObjectKey>, Fault> {
        let inputs = self.config.subjects.inputs(&found.cut_out(), resolution);
        inputs.iter().map(|hash| Ok(ObjectKey::of_content(layout::SUBJECTS, hash)?)).collect()
    }

    async fn cached_subject(&self, subjects: &[ObjectKey]) -> Option<ObjectKey> {
        for subject in subjects {
            if self.objects.is_cached(subject).await {
                return Some(subject.clone());
            }
        }
        None
    }

    /// Returns how the subject is cut out, if the cache knows.
    async fn segmentation(&self, image: ContentHash, job: &Job) -> Result<Option<Segmentation>, Fault> {
        let inputs = layout::segmentation_inputs(image, job, &self.config.subjects.finders);
        Segmentation::get_cached(&self.objects, &ObjectKey::of_content(layout::SEGMENTATIONS, &inputs)?).await
    }
}

#[async_trait]
impl Stage for Dispatcher {
    type Task = Job;

    async fn run(&self, job: Job, context: &StageContext) -> Result<Outcome, Fault> {
        self.dispatch(job, context).await
    }
}

fn not_stored(image: ContentHash) -> Fault {
    Fault::bad_image(format!("no picture with the hash {image} is stored; send the picture itself"))
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
        if let Self::Encode(found) | Self::Sample(found, _) = &self {
            progress.note(StageName::Segmenter, 0.0, true);
            progress.subject = Some(found.subject_of(&job));
        }
        match self {
            Self::Segment => NextTask::of(&SegmentTask { job, image, progress }).with_settings(&keys.finders),
            Self::Encode(found) => {
                NextTask::of(&EncodeTask::new(job, found.cut_out(), progress)).with_settings(&keys.encoder_settings())
            }
            Self::Sample(found, subject) => {
                progress.note(StageName::Encoder, 0.0, true);
                let (encoded_subject, cut_out) = (subject.as_str().to_owned(), Some(found.cut_out()));
                NextTask::of(&SampleTask { job, encoded_subject, cut_out, progress })
            }
        }
    }
}

#[cfg(test)]
mod tests;
