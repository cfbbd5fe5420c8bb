//! Previews of pictures on their way: encoded small, kept in the cache for a few minutes, and named in an event.
//!
//! All of it is a courtesy. What cannot be stored is left out, and no picture waits for it.

use std::time::Duration;

use echogen_imaging::{Filter, ImageError, ImageFormat, RgbImage, encode_image, resize};
use echogen_ports::{Cache, Fault, FaultKind, spawn_blocking};
use echogen_protocol::{EventKind, Job, JobEvent, JobId, Preview, layout};
use echogen_telemetry::{PreviewEnd, metrics};
use echogen_worker::StageContext;
use serde_json::json;
use tokio::sync::mpsc;
use tracing::debug;

use crate::{Previews, ScaleDone};

/// Pixels on the longer side, at most.
pub(crate) const PREVIEW_SIDE: u32 = 256;

/// Groups of previews that wait while another is encoded and stored; with more, the newest is dropped.
pub(crate) const WAITING: usize = 2;

/// JPEG quality: some ten kilobytes.
const QUALITY: u8 = 75;

/// How long they stay.
const TTL: Duration = Duration::from_secs(600);

/// Stores previews; `seeds` are the indices of the request's seeds among the job's. Returns the names of those that are stored.
pub(crate) async fn store(
    cache: &dyn Cache,
    job: &JobId,
    seeds: &[usize],
    previews: Previews,
) -> (ScaleDone, Vec<Preview>) {
    let Previews { progress, scale, images } = previews;
    let (mut left, mut stored) = (NotStored(images.len()), Vec::with_capacity(images.len()));
    for (index, picture) in images {
        let Some(&image) = seeds.get(index) else { continue };
        match store_one(cache, job, Preview { image, scale }, picture).await {
            Ok(preview) => {
                stored.push(preview);
                left.0 -= 1;
                metrics().previews(PreviewEnd::Made, 1);
            }
            Err(error) => debug!(%error, "a preview is not stored"),
        }
    }
    (progress, stored)
}

/// Counts previews as dropped when it is dropped itself, also in the middle of the work.
struct NotStored(usize);

impl Drop for NotStored {
    fn drop(&mut self) {
        metrics().previews(PreviewEnd::Dropped, self.0);
    }
}

/// Drops the previews that came too late to be stored.
pub(crate) fn drop_late(made: &mut mpsc::Receiver<Previews>) {
    while let Ok(late) = made.try_recv() {
        drop(NotStored(late.images.len()));
    }
}

async fn store_one(cache: &dyn Cache, job: &JobId, preview: Preview, picture: RgbImage) -> Result<Preview, Fault> {
    let encoded = spawn_blocking(move || encode(picture)).await?;
    let bytes = bytes::Bytes::from(encoded.map_err(|error| Fault::from_error(FaultKind::Internal, error))?);
    cache.put(&layout::preview_key(job, preview.image, preview.scale), bytes.clone(), TTL).await?;
    cache.put(&layout::newest_preview_key(job, preview.image), bytes, TTL).await?;
    Ok(preview)
}

fn encode(picture: RgbImage) -> Result<Vec<u8>, ImageError> {
    let (width, height) = picture.dimensions();
    let longest = width.max(height);
    if longest <= PREVIEW_SIDE {
        return encode_image(&picture, ImageFormat::Jpeg, QUALITY);
    }
    let small = |side: u32| (side * PREVIEW_SIDE / longest).max(1);
    let picture = resize(&picture, small(height), small(width), Filter::Bilinear)?;
    encode_image(&picture, ImageFormat::Jpeg, QUALITY)
}

/// Publishes the event that names previews, if there are any. Its id differs from that of the same scale's event without previews.
pub(crate) async fn publish(job: &Job, progress: ScaleDone, previews: &[Preview], context: &StageContext) {
    if previews.is_empty() {
        return;
    }
    let ScaleDone { done, total } = progress;
    let data = json!({ "scale": done, "scales": total, "previews": previews });
    let event = JobEvent::new(EventKind::Sampling, &job.id, context.clock.now(), data);
    context.publish(event.with_part(format!("{done}/previews"))).await;
}
