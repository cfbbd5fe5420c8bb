//! Collects the entries of a contact sheet, a few strings for each job, and draws it at the end.

use std::collections::BTreeMap;

use anyhow::Context;
use bytes::Bytes;
use echogen_figures::SheetRow;
use echogen_imaging::{ImageFormat, ImageLimits, RgbImage};
use echogen_ports::{ObjectKey, ObjectStore, spawn_blocking};
use echogen_protocol::{ContentHash, Job, JobResult, layout};

/// The sheet's key in the result store.
pub(crate) const KEY: &str = "contact-sheet.png";

/// Maximum number of jobs, and of pictures of a job, that are read; the sheet only counts the others. Must not be less
/// than the sheet shows.
const SHOWN_JOBS: usize = 40;
const SHOWN_PICTURES: usize = 4;

/// Pictures are scaled to this size until the sheet is drawn, so that memory does not depend on their original size.
const KEPT_SIDE: u32 = 512;

/// Maximum size of a picture that is read back, in bytes.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The finished jobs, in the order of their lines.
#[derive(Default)]
pub(crate) struct Collection {
    first: BTreeMap<u64, Entry>,
    jobs: usize,
}

struct Entry {
    subject: ContentHash,
    caption: String,
    images: Vec<String>,
}

impl Collection {
    /// Adds a finished job.
    pub(crate) fn add(&mut self, order: u64, job: &Job, result: &JobResult) {
        let Some(subject) = &result.subject else { return };
        self.jobs += 1;
        let images = result.images.iter().map(|image| image.key.clone()).collect();
        self.first.insert(order, Entry { subject: subject.image, caption: job.prompt.clone(), images });
        if self.first.len() > SHOWN_JOBS {
            self.first.pop_last();
        }
    }

    /// Draws the sheet and stores it; `false` if there is nothing to draw.
    pub(crate) async fn draw(self, work: &dyn ObjectStore, pictures: &dyn ObjectStore) -> anyhow::Result<bool> {
        let mut cards = Vec::new();
        for entry in self.first.values() {
            cards.push(Card::read(entry, work, pictures).await?);
        }
        if cards.is_empty() {
            return Ok(false);
        }
        let hidden = self.jobs.saturating_sub(cards.len());
        let png = spawn_blocking(move || draw(&cards, hidden)).await??;
        pictures.put(&ObjectKey::new(KEY)?, png).await?;
        Ok(true)
    }
}

struct Card {
    subject: RgbImage,
    caption: String,
    results: Vec<RgbImage>,
}

impl Card {
    /// Reads an entry's pictures. A missing or unreadable one leaves its place empty.
    async fn read(entry: &Entry, work: &dyn ObjectStore, pictures: &dyn ObjectStore) -> anyhow::Result<Self> {
        let subject = thumbnail(work, &ObjectKey::of_content(layout::IMAGES, &entry.subject)?).await?;
        let mut results = Vec::with_capacity(entry.images.len());
        for (index, image) in entry.images.iter().enumerate() {
            let shown = index < SHOWN_PICTURES;
            results.push(if shown { thumbnail(pictures, &ObjectKey::new(image)?).await? } else { RgbImage::new(1, 1) });
        }
        Ok(Self { subject, caption: entry.caption.clone(), results })
    }
}

async fn thumbnail(store: &dyn ObjectStore, key: &ObjectKey) -> anyhow::Result<RgbImage> {
    let Some(bytes) = store.get(key, MAX_BYTES).await? else { return Ok(RgbImage::new(1, 1)) };
    let small = spawn_blocking(move || shrink(&bytes)).await?;
    Ok(small.unwrap_or_else(|_| RgbImage::new(1, 1)))
}

fn shrink(bytes: &[u8]) -> Result<RgbImage, echogen_imaging::ImageError> {
    let picture = echogen_imaging::decode_image(bytes, &ImageLimits::default())?;
    let (width, height) = picture.dimensions();
    let scale = f64::from(KEPT_SIDE) / f64::from(width.max(height));
    if scale >= 1.0 {
        return Ok(picture);
    }
    let fitted = |side: u32| (f64::from(side) * scale).round().max(1.0) as u32;
    echogen_imaging::cover_and_crop(&picture, fitted(height), fitted(width))
}

fn draw(cards: &[Card], hidden: usize) -> anyhow::Result<Bytes> {
    let nothing = RgbImage::new(1, 1);
    let shown = cards.iter().map(|card| SheetRow {
        subject: &card.subject,
        caption: card.caption.clone(),
        results: &card.results,
    });
    let rest = std::iter::repeat_with(|| SheetRow { subject: &nothing, caption: String::new(), results: &[] });
    let rows: Vec<SheetRow<'_>> = shown.chain(rest.take(hidden)).collect();
    let sheet = echogen_figures::contact_sheet(&rows);
    let png =
        echogen_imaging::encode_image(&sheet, ImageFormat::Png, 100).context("the contact sheet cannot be written")?;
    Ok(png.into())
}

#[cfg(test)]
mod tests {
    use echogen_ports::MemoryObjectStore;
    use echogen_protocol::{BoundingBox, FoundBy, JobId, ResultImage, SubjectFound};
    use jiff::Timestamp;

    use super::*;

    fn result(job: &Job, key: &str) -> JobResult {
        let sha256 = ContentHash::of(b"");
        let image = ResultImage { key: key.into(), seed: 1, width: 1, height: 1, sha256, safety: None };
        let area = BoundingBox { left: 0, top: 0, right: 1, bottom: 1 };
        let subject =
            SubjectFound { image: sha256, name: None, bounding_box: area, score: None, how: FoundBy::WholeImage };
        JobResult { subject: Some(subject), ..JobResult::completed(job, vec![image], "1", Timestamp::UNIX_EPOCH) }
    }

    async fn draw_with(lines: impl Iterator<Item = u64>) -> Option<RgbImage> {
        let (work, pictures) = (MemoryObjectStore::new(), MemoryObjectStore::new());
        let png = echogen_imaging::encode_image(&RgbImage::new(900, 20), ImageFormat::Png, 100).unwrap();
        pictures.put(&ObjectKey::new("a/image-0.png").unwrap(), png.into()).await.unwrap();
        let mut collection = Collection::default();
        for line in lines {
            let job = Job { id: JobId("a".into()), ..Job::new("a.png".into(), format!("prompt {line}")) };
            collection.add(line, &job, &result(&job, "a/image-0.png"));
        }
        assert!(collection.first.len() <= SHOWN_JOBS);
        let drawn = collection.draw(&work, &pictures).await.unwrap();
        let bytes = pictures.get(&ObjectKey::new(KEY).unwrap(), MAX_BYTES).await.unwrap();
        assert_eq!(drawn, bytes.is_some());
        bytes.map(|bytes| echogen_imaging::decode_image(&bytes, &ImageLimits::default()).unwrap())
    }

    #[tokio::test]
    async fn a_sheet_stays_bounded_and_its_order_is_that_of_the_lines() {
        let forwards = draw_with(1..=50).await.unwrap();
        let backwards = draw_with((1..=50).rev()).await.unwrap();
        assert_eq!(forwards, backwards);
        assert!(forwards.dimensions() > (256, 256));
    }

    #[tokio::test]
    async fn nothing_finished_leaves_no_sheet() {
        assert!(draw_with(std::iter::empty()).await.is_none());
    }
}
