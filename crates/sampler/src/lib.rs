//! The sampler: turns a prompt and an encoded subject into pictures, `result.json` and one completion event.
//!
//! The pictures are stored first, each as soon as it is made, and `result.json` last, and only if it does not exist: it marks the job as completed.
//! A job that has a result is not sampled again.
//!
//! The networks are behind [`ImageSampler`], so that this stage's tests need no weights. [`GeneratorSampler`] is the
//! implementation on a bundle's networks. Other networks get the same batches by a [`BatchThread`] of their own.

mod batch_counters;
mod batch_scheduler;
mod batch_thread;
mod config;
mod gated_pictures;
mod generator_sampler;
mod image_sampler;
mod job_pictures;
mod previews;
mod step_scheduler;
mod subject_cache;
mod warm_up;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_imaging::{ImageFormat, RgbImage};
use echogen_ports::{ContentGate, Fault, FaultKind, ObjectKey, ObjectStore, spawn_blocking};
use echogen_protocol::{
    ContentHash, CutOut, EncodeTask, EventKind, Job, JobEvent, JobResult, OutputFormat, Parameters, Progress,
    ResultImage, SampleTask, SegmentTask, StageName, layout,
};
use echogen_telemetry::{PreviewEnd, metrics};
use echogen_worker::{CachedObjects, Outcome, ResultWriter, Stage, StageContext};
use futures::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;

pub use batch_counters::BatchCounters;
pub use batch_scheduler::CloseReason;
pub use batch_thread::{BatchNetworks, BatchThread, Part};
pub use config::SamplerConfig;
pub use generator_sampler::GeneratorSampler;
pub use image_sampler::{
    ImageSampler, Made, PreviewRequest, Previews, SampleError, SampleRequest, Sampled, ScaleDone, Step,
};

use gated_pictures::{Checked, GatedPictures};
use job_pictures::{JobPictures, Picture};
use previews::PREVIEW_SIDE;

/// Maximum size of an encoded subject in bytes. At the largest pixel budget it has about 4 MiB in f32.
const MAX_SUBJECT_BYTES: u64 = 64 * 1024 * 1024;

/// Maximum size of a picture that is read back, in bytes: far more than one of the largest size has.
const MAX_PICTURE_BYTES: u64 = 256 * 1024 * 1024;

/// JPEG quality of jobs that name none, as documented in the job's schema.
const DEFAULT_QUALITY: u8 = 90;

/// A picture up to this size is encoded on the async thread: 64 x 64 pixels take about as long as the switch to
/// another thread.
const MAX_INLINE_BYTES: usize = 64 * 64 * 3;

/// The sampler stage.
#[derive(Debug)]
pub struct Sampler {
    networks: Arc<dyn ImageSampler>,
    objects: CachedObjects,
    pictures: Arc<dyn ObjectStore>,
    results: ResultWriter,
    stored_at_once: usize,
    scale_events: bool,
    gate: GatedPictures,
}

impl Sampler {
    /// Creates a sampler that reads encoded subjects from `objects` and writes pictures into `pictures`, which must be
    /// the store that `results` writes into.
    pub fn new(
        networks: Arc<dyn ImageSampler>,
        objects: CachedObjects,
        pictures: Arc<dyn ObjectStore>,
        results: ResultWriter,
        config: &SamplerConfig,
    ) -> Self {
        let (stored_at_once, scale_events) = (config.stored_at_once.max(1), config.scale_events);
        let gate = GatedPictures::default();
        Self { networks, objects, pictures, results, stored_at_once, scale_events, gate }
    }

    /// The same sampler, which stores only pictures that the gate allows.
    #[must_use]
    pub fn with_gate(self, gate: Option<Arc<dyn ContentGate>>) -> Self {
        Self { gate: GatedPictures::new(gate), ..self }
    }

    async fn make(&self, task: SampleTask, context: &StageContext) -> Result<Outcome, Fault> {
        let started = Instant::now();
        let SampleTask { job, encoded_subject, cut_out, mut progress } = task;
        let key = ObjectKey::new(encoded_subject)?;
        // Both are read concurrently: a job seldom has a result already, and then only the read of the subject was
        // wasted.
        let (is_settled, subject) =
            tokio::join!(self.results.is_settled(&job, &context.metadata), self.objects.get(&key, MAX_SUBJECT_BYTES));
        if is_settled? {
            return Ok(Outcome::Done);
        }
        let parameters = self.networks.plan(&job)?;
        let Some(subject) = subject? else { return encode_again(job, cut_out, progress) };
        let mut pictures = JobPictures::new(&job, &parameters, &self.networks.models());
        if context.came_before {
            pictures.recall(&*self.objects.cache(), self.gate.is_there()).await;
        }
        if !pictures.missing().is_empty() {
            let sampled = self.sample(&job, &parameters, &key, subject, &mut pictures, context).await?;
            for (step, seconds) in &sampled.timings {
                progress.timings.insert(format!("{}.{step}", StageName::Sampler), *seconds);
            }
        }
        let usage = pictures.usage();
        let (images, withheld) = pictures.all()?;
        progress.note(StageName::Sampler, started.elapsed().as_secs_f64(), false);
        let made =
            JobResult { images, withheld, usage: Some(usage), ..self.result(&job, parameters, progress, context) };
        // The result is written after all its pictures: a client that reads it must find them.
        self.results.commit(&job, made, &context.metadata).await?;
        Ok(Outcome::Done)
    }

    /// Samples the missing pictures and stores each as soon as it is made. Publishes an event when sampling begins or, if
    /// configured, for every scale.
    async fn sample(
        &self,
        job: &Job,
        parameters: &Parameters,
        key: &ObjectKey,
        subject: Bytes,
        pictures: &mut JobPictures,
        context: &StageContext,
    ) -> Result<Sampled, Fault> {
        let ((progress, mut steps), (made, mut images)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let (previews, mut previews_made) = mpsc::channel(previews::WAITING);
        let (missing, cache) = (pictures.missing(), self.objects.cache());
        // Where finished pictures are checked, unfinished ones are not shown.
        let has_previews = job.previews > 0 && !self.gate.is_there();
        let request = SampleRequest {
            parameters: parameters.clone(),
            seeds: missing.iter().map(|index| pictures.seed(*index)).collect(),
            subject_key: key.as_str().to_owned(),
            subject,
            lane: context.metadata.lane.unwrap_or(job.lane),
            alone: context.alone,
            progress,
            made,
            previews: has_previews.then_some(PreviewRequest { count: job.previews, made: previews }),
        };
        let sampling = self.networks.sample(request);
        tokio::pin!(sampling);
        let (mut is_first, mut sampled) = (true, None);
        let (mut storing, mut previewing) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            tokio::select! {
                // Progress is polled first, so that no scale is published after sampling has ended.
                biased;
                // The next step begins, or the pictures wait for other batches. When the sender is dropped, this arm is
                // disabled and the others remain.
                Some(step) = steps.recv() => match step {
                    Step::Scale(scale) => {
                        context.begin();
                        if is_first || self.scale_events {
                            tell_scale(job, scale, context).await;
                        }
                        is_first = false;
                    }
                    Step::Decode => context.begin(),
                    // Under load a large job waits long for its turns, and nothing is wrong with it.
                    Step::Waits => context.wait(),
                },
                // A picture is stored. One note for all that were made together.
                Some(stored) = storing.next(), if !storing.is_empty() => {
                    let (index, picture) = stored?;
                    pictures.add(index, picture);
                    if storing.is_empty() && images.is_empty() {
                        pictures.note(&*cache).await;
                    }
                }
                // Previews are made; one group is stored at a time, and none while more events wait than usual.
                Some(made) = previews_made.recv(), if sampled.is_none() && previewing.is_empty() => {
                    match context.is_behind() {
                        true => metrics().previews(PreviewEnd::Dropped, made.images.len()),
                        false => previewing.push(previews::store(&*cache, &job.id, &missing, made)),
                    }
                }
                // Previews are stored, as long as no picture waits for it.
                Some((progress, stored)) = previewing.next(),
                    if !previewing.is_empty() && (sampled.is_none() || !storing.is_empty()) =>
                {
                    pictures.note_previews(stored.len());
                    previews::publish(job, progress, &stored, context).await;
                }
                // A picture is made; the next ones wait in the channel while others are stored.
                Some(Made { index, image, device_time }) = images.recv(), if storing.len() < self.stored_at_once => {
                    pictures.note_device_time(device_time);
                    let index = missing.get(index).copied().unwrap_or(usize::MAX);
                    storing.push(self.store(job, parameters, index, pictures.seed(index), image));
                }
                // Sampling has ended, or failed: then too the pictures that are made are stored.
                ended = &mut sampling, if sampled.is_none() => sampled = Some(ended),
                // Nothing is left in any of the channels.
                else => break,
            }
        }
        previews::drop_late(&mut previews_made);
        Ok(sampled.ok_or_else(|| Fault::internal("sampling has not ended"))??)
    }

    async fn store(
        &self,
        job: &Job,
        parameters: &Parameters,
        index: usize,
        seed: u64,
        image: RgbImage,
    ) -> Result<(usize, Picture), Fault> {
        let (format, quality) = (file_format(parameters.format), parameters.quality.unwrap_or(DEFAULT_QUALITY));
        let (width, height) = image.dimensions();
        let bytes = encode(image, format, quality).await?;
        let safety = match self.gate.check(job, index, seed, &bytes).await? {
            Checked::Withheld(reason) => return Ok((index, Picture::Withheld(reason))),
            Checked::Usable(safety) => safety,
        };
        let sha256 = ContentHash::of(&bytes);
        let key = self.keep(job, index, bytes, &sha256).await?;
        let image = ResultImage { key: key.as_str().to_owned(), seed, width, height, sha256, safety };
        Ok((index, Picture::Stored(image)))
    }

    /// Stores a picture under its name. Another attempt, on another kind of device for example, may have stored a
    /// different picture there, together with a result that refers to it. That picture stays, and this one gets a name
    /// of its own.
    async fn keep(&self, job: &Job, index: usize, bytes: Bytes, sha256: &ContentHash) -> Result<ObjectKey, Fault> {
        let key = ObjectKey::new(layout::result_image_key(job, index))?;
        if self.pictures.put_if_absent(&key, bytes.clone()).await? {
            return Ok(key);
        }
        if self.pictures.get(&key, MAX_PICTURE_BYTES).await?.is_some_and(|there| there == bytes) {
            return Ok(key);
        }
        let key = ObjectKey::new(layout::result_image_key_beside(job, index, sha256))?;
        self.pictures.put(&key, bytes).await?;
        Ok(key)
    }

    fn result(&self, job: &Job, parameters: Parameters, progress: Progress, context: &StageContext) -> JobResult {
        let mut models = progress.models;
        models.extend(self.networks.models());
        JobResult {
            parameters: Some(parameters),
            subject: progress.subject,
            models,
            timings: progress.timings,
            cached: progress.cached,
            ..JobResult::completed(job, Vec::new(), self.results.version(), context.clock.now())
        }
    }
}

#[async_trait]
impl Stage for Sampler {
    type Task = SampleTask;

    async fn run(&self, task: SampleTask, context: &StageContext) -> Result<Outcome, Fault> {
        self.make(task, context).await
    }

    /// A task waits for others of its shape, and for the networks.
    fn begins_later(&self) -> bool {
        true
    }
}

/// The encoded subject was deleted after the task was published: sends the job back to the encoder, which makes it
/// again. A task of version 0.1.0 does not say from what, so that job goes back to the segmenter.
fn encode_again(job: Job, cut_out: Option<CutOut>, progress: Progress) -> Result<Outcome, Fault> {
    if let Some(cut_out) = cut_out {
        return Ok(Outcome::next(&EncodeTask::new(job, cut_out, progress)));
    }
    let Some(subject) = &progress.subject else {
        let message = "the encoded subject is gone; run the job again";
        return Err(Fault::not_found(message));
    };
    let image = subject.image;
    Ok(Outcome::next(&SegmentTask { job, image, progress }))
}

/// Encodes a picture as a file, on the blocking thread pool unless it is tiny.
async fn encode(image: RgbImage, format: ImageFormat, quality: u8) -> Result<Bytes, Fault> {
    let is_tiny = image.as_raw().len() <= MAX_INLINE_BYTES;
    let work = move || echogen_imaging::encode_image(&image, format, quality);
    let encoded = if is_tiny { work() } else { spawn_blocking(work).await? };
    Ok(encoded.map_err(|error| Fault::from_error(FaultKind::Internal, error))?.into())
}

async fn tell_scale(job: &Job, scale: ScaleDone, context: &StageContext) {
    let data = serde_json::json!({ "scale": scale.done, "scales": scale.total });
    let event = JobEvent::new(EventKind::Sampling, &job.id, context.clock.now(), data);
    context.publish(event.with_part(scale.done)).await;
}

fn file_format(format: OutputFormat) -> ImageFormat {
    match format {
        OutputFormat::Png => ImageFormat::Png,
        OutputFormat::Jpeg => ImageFormat::Jpeg,
        OutputFormat::Webp => ImageFormat::Webp,
    }
}

#[cfg(test)]
mod tests;
