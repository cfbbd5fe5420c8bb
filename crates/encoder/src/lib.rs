//! The encoder: turns a cut-out into an encoded subject, once.
//!
//! A cut-out is a picture and which of its pixels are kept ([`CutOut`]). The stage decodes the picture within limits, paints
//! all other pixels white, and asks its networks.
//!
//! The product is stored in the object store, from which later stages can always read it, and in the cache, where the
//! sampler reads it faster. Its key covers everything it depends on: the cut-out, the networks, the type in which they
//! compute, and the resolution. If many jobs ask for the same subject at the same moment, they all wait for one encoding,
//! across processes too; a picture is decoded only for that one.
//!
//! The networks are behind [`SubjectEncoder`], so that this stage's tests need no weights. [`NetworkEncoder`] is the
//! implementation on a bundle's networks.

mod network_encoder;
mod subject_encoder;

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_imaging::{ImageError, ImageLimits, PixelBox, RgbImage};
use echogen_ports::{Fault, FaultKind, MemoryBudget, ObjectKey};
use echogen_protocol::{
    BoundingBox, CutOut, EncodeTask, EventKind, Job, NextTask, Progress, SampleTask, SegmentTask, StageName,
    SubjectArea, SubjectKeys, layout, limits,
};
use echogen_worker::{CachedObjects, Outcome, Products, ProductsConfig, Stage, StageContext, StoredObject};

pub use network_encoder::NetworkEncoder;
pub use subject_encoder::{EncodeError, SubjectEncoder};

/// The encoder stage.
#[derive(Debug)]
pub struct Encoder {
    keys: SubjectKeys,
    limits: ImageLimits,
    networks: Arc<dyn SubjectEncoder>,
    subjects: Products<StoredObject>,
    memory: MemoryBudget,
}

impl Encoder {
    /// Creates an encoder that decodes pictures of `objects` within `limits` and stores encoded subjects there.
    pub fn new(
        keys: &SubjectKeys,
        limits: ImageLimits,
        networks: Arc<dyn SubjectEncoder>,
        objects: CachedObjects,
        config: &ProductsConfig,
    ) -> Self {
        let memory = MemoryBudget::new(config.picture_memory_bytes);
        let keys = keys.in_dtype(networks.dtype());
        Self { keys, limits, networks, subjects: Products::new(objects, config), memory }
    }

    async fn encode(&self, task: EncodeTask, context: &StageContext) -> Result<Outcome, Fault> {
        let started = Instant::now();
        let EncodeTask { job, cut_out, mut progress, cutout: _ } = task;
        let Some(cut_out) = cut_out else { return segment_again(job, progress) };
        let own = self.keys.encoder_settings();
        context.check_settings("encoding networks", &own, |theirs| self.keys.are_among(theirs))?;
        let resolution = self.keys.resolution(&job).map_err(Fault::unsupported)?;
        let key = self.key(&cut_out, resolution)?;
        let make = || self.make(&cut_out, resolution, context);
        let subject = self.subjects.get_or_make(context, &key, progress.is_new(), make).await?;
        progress.models.extend(self.networks.models());
        progress.note(StageName::Encoder, started.elapsed().as_secs_f64(), subject.is_found());
        context.publish_new(EventKind::Encoded, &job.id, serde_json::json!({ "subject": key.as_str() })).await;
        let (encoded_subject, cut_out) = (key.as_str().to_owned(), Some(cut_out));
        Ok(Outcome::next(&SampleTask { job, encoded_subject, cut_out, progress }))
    }

    /// Returns the key of the encoded subject: an encoder computes in one type, so there is one.
    fn key(&self, cut_out: &CutOut, resolution: u32) -> Result<ObjectKey, Fault> {
        let inputs = self.keys.inputs(cut_out, resolution);
        let inputs = inputs.first().ok_or_else(|| Fault::internal("the encoder has no type to compute in"))?;
        Ok(ObjectKey::of_content(layout::SUBJECTS, inputs)?)
    }

    /// Encodes a cut-out.
    async fn make(&self, cut_out: &CutOut, resolution: u32, context: &StageContext) -> Result<Bytes, Fault> {
        let (limits, area) = (self.limits, cut_out.area.clone());
        let max_bytes = limits::MAX_IMAGE_BYTES.max(limits.max_bytes);
        let bytes = self.subjects.objects().picture(cut_out.image, max_bytes).await?;
        let measure = move |bytes: &Bytes| echogen_imaging::decoding_bytes(bytes, &limits).map_err(bad_image);
        let decode = move |bytes: &Bytes| {
            let mut picture = echogen_imaging::decode_image(bytes, &limits).map_err(bad_image)?;
            paint(&mut picture, &area).map_err(bad_image)?;
            Ok::<_, Fault>(picture)
        };
        // The memory permit is held until the subject is encoded. This order prevents a deadlock: a task that holds a
        // memory permit waits only for the networks, which need none, so it never waits for a task that waits for
        // memory.
        let (picture, _memory) = self.memory.load(bytes, measure, decode).await?;
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

/// Paints everything white that does not belong to the subject.
fn paint(picture: &mut RgbImage, area: &SubjectArea) -> Result<(), ImageError> {
    match area {
        SubjectArea::Whole => Ok(()),
        SubjectArea::Box(BoundingBox { left, top, right, bottom }) => {
            let (left, top, right, bottom) = (*left, *top, *right, *bottom);
            echogen_imaging::paint_outside_white(picture, PixelBox { left, top, right, bottom })
        }
        SubjectArea::Mask(mask) => echogen_imaging::paint_outside_runs_white(picture, mask.dimensions(), mask.runs()),
    }
}

/// Sends a task of version 0.1.0 back to the segmenter: it names a stored cut-out, and those are no more.
fn segment_again(job: Job, progress: Progress) -> Result<Outcome, Fault> {
    let Some(subject) = &progress.subject else {
        return Err(Fault::not_found("the stored cut-out is gone; run the job again"));
    };
    let image = subject.image;
    Ok(Outcome::Next(vec![NextTask::of(&SegmentTask { job, image, progress })]))
}

fn bad_image(error: ImageError) -> Fault {
    Fault::from_error(FaultKind::BadImage, error)
}

#[cfg(test)]
mod tests;
