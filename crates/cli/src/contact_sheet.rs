//! Collects the entries of a contact sheet, a few strings for each job, and draws its pages at the end.
//!
//! A caption is what the result says was asked for, so it is that of the pictures beside it, whatever the line of the job says
//! by now. A job with more pictures than a card shows has several cards.

use std::collections::BTreeMap;

use anyhow::Context;
use bytes::Bytes;
use echogen_figures::{MAX_CARDS, MAX_RESULTS, SheetRow, THUMBNAIL, contact_sheet_headed, counted};
use echogen_imaging::{ImageFormat, ImageLimits, RgbImage};
use echogen_ports::{ObjectKey, ObjectStore, spawn_blocking};
use echogen_protocol::{ContentHash, Job, JobResult, layout};

/// What names of pages begin with in the result store.
pub(crate) const NAME: &str = "contact-sheet";

/// Maximum size of a picture that is read back, in bytes.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// The finished jobs, in the order of their lines.
pub(crate) struct Collection {
    first: BTreeMap<u64, Entry>,
    max_cards: usize,
    cards: usize,
    jobs: usize,
    pictures: usize,
}

struct Entry {
    subject: ContentHash,
    caption: String,
    images: Vec<String>,
}

/// What was drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Drawn {
    /// The key of each page.
    pub(crate) pages: Vec<String>,
    /// Finished jobs that are on none of them.
    pub(crate) hidden: usize,
}

impl Entry {
    fn cards(&self) -> usize {
        self.images.len().div_ceil(MAX_RESULTS).max(1)
    }
}

impl Collection {
    /// Collects what fits on so many pages; the others are counted.
    pub(crate) fn new(max_pages: usize) -> Self {
        Self { first: BTreeMap::new(), max_cards: max_pages * MAX_CARDS, cards: 0, jobs: 0, pictures: 0 }
    }

    /// Adds a finished job.
    pub(crate) fn add(&mut self, order: u64, job: &Job, result: &JobResult) {
        let Some(subject) = &result.subject else { return };
        self.jobs += 1;
        self.pictures += result.images.len();
        let prompt = result.parameters.as_ref().map_or(&job.prompt, |used| &used.prompt);
        let images = result.images.iter().map(|image| image.key.clone()).collect();
        let entry = Entry { subject: subject.image, caption: prompt.clone(), images };
        self.cards += entry.cards();
        self.first.insert(order, entry);
        while self.cards > self.max_cards
            && let Some((_, last)) = self.first.pop_last()
        {
            self.cards -= last.cards();
        }
    }

    /// Draws the pages and stores them under keys that begin with `name`. Those of a longer sheet of that name are removed.
    pub(crate) async fn draw(
        self,
        name: &str,
        work: &dyn ObjectStore,
        pictures: &dyn ObjectStore,
    ) -> anyhow::Result<Drawn> {
        let hidden = self.jobs - self.first.len();
        let parts: Vec<Part<'_>> = self.first.values().flat_map(Part::of).collect();
        let count = parts.len().div_ceil(MAX_CARDS);
        let mut pages = Vec::with_capacity(count);
        for (index, parts) in parts.chunks(MAX_CARDS).enumerate() {
            let mut cards = Vec::with_capacity(parts.len());
            for part in parts {
                cards.push(Card::read(part, work, pictures).await?);
            }
            let whole = format!("{} \u{b7} {}", counted(self.jobs, "job"), counted(self.pictures, "picture"));
            let heading = if count > 1 { format!("page {} of {count} \u{b7} {whole}", index + 1) } else { whole };
            let png = spawn_blocking(move || draw(&cards, &heading)).await??;
            let key = page_key(name, index + 1);
            pictures.put(&ObjectKey::new(key.clone())?, png).await?;
            pages.push(key);
        }
        let mut number = count + 1;
        while number > 1 && pictures.exists(&ObjectKey::new(page_key(name, number))?).await? {
            pictures.delete(&ObjectKey::new(page_key(name, number))?).await?;
            number += 1;
        }
        Ok(Drawn { pages, hidden })
    }
}

/// The key of a page, counted from 1.
fn page_key(name: &str, page: usize) -> String {
    if page == 1 { format!("{name}.png") } else { format!("{name}-page-{page}.png") }
}

/// What one card shows of a job.
struct Part<'a> {
    subject: ContentHash,
    caption: String,
    images: &'a [String],
}

impl Part<'_> {
    fn of(entry: &Entry) -> Vec<Part<'_>> {
        let all = entry.images.len();
        if all <= MAX_RESULTS {
            return vec![Part { subject: entry.subject, caption: entry.caption.clone(), images: &entry.images }];
        }
        let chunks = entry.images.chunks(MAX_RESULTS).enumerate();
        let part = |(index, images): (usize, _)| {
            let first = index * MAX_RESULTS + 1;
            let last = (first + MAX_RESULTS - 1).min(all);
            Part { subject: entry.subject, caption: format!("{first} to {last} of {all}: {}", entry.caption), images }
        };
        chunks.map(part).collect()
    }
}

struct Card {
    subject: RgbImage,
    caption: String,
    results: Vec<RgbImage>,
}

impl Card {
    /// Reads a part's pictures. A missing or unreadable one leaves its place empty.
    async fn read(part: &Part<'_>, work: &dyn ObjectStore, pictures: &dyn ObjectStore) -> anyhow::Result<Self> {
        let subject = thumbnail(work, &ObjectKey::of_content(layout::IMAGES, &part.subject)?).await?;
        let mut results = Vec::with_capacity(part.images.len());
        for image in part.images {
            results.push(thumbnail(pictures, &ObjectKey::new(image)?).await?);
        }
        Ok(Self { subject, caption: part.caption.clone(), results })
    }
}

async fn thumbnail(store: &dyn ObjectStore, key: &ObjectKey) -> anyhow::Result<RgbImage> {
    let Some(bytes) = store.get(key, MAX_BYTES).await? else { return Ok(RgbImage::new(1, 1)) };
    let small = spawn_blocking(move || shrink(&bytes)).await?;
    Ok(small.unwrap_or_else(|_| RgbImage::new(1, 1)))
}

/// Scales a picture to the size that it has on the sheet, so that memory does not depend on its own.
fn shrink(bytes: &[u8]) -> Result<RgbImage, echogen_imaging::ImageError> {
    let picture = echogen_imaging::decode_image(bytes, &ImageLimits::default())?;
    let (width, height) = picture.dimensions();
    let scale = f64::from(THUMBNAIL) / f64::from(width.max(height));
    if scale >= 1.0 {
        return Ok(picture);
    }
    let fitted = |side: u32| (f64::from(side) * scale).round().max(1.0) as u32;
    echogen_imaging::cover_and_crop(&picture, fitted(height), fitted(width))
}

fn draw(cards: &[Card], heading: &str) -> anyhow::Result<Bytes> {
    let rows: Vec<SheetRow<'_>> = cards
        .iter()
        .map(|Card { subject, caption, results }| SheetRow { subject, caption: caption.clone(), results })
        .collect();
    let sheet = contact_sheet_headed(&rows, heading);
    let png =
        echogen_imaging::encode_image(&sheet, ImageFormat::Png, 100).context("the contact sheet cannot be written")?;
    Ok(png.into())
}

#[cfg(test)]
mod tests {
    use echogen_ports::MemoryObjectStore;
    use echogen_protocol::{BoundingBox, FoundBy, JobId, Parameters, ResultImage, SubjectFound};
    use echogen_testkit::parameters;
    use jiff::Timestamp;

    use super::*;

    fn result(job: &Job, images: usize) -> JobResult {
        let sha256 = ContentHash::of(b"");
        let key = || "a/image-0.png".to_owned();
        let image = |_| ResultImage { key: key(), seed: 1, width: 1, height: 1, sha256, safety: None };
        let area = BoundingBox { left: 0, top: 0, right: 1, bottom: 1 };
        let subject =
            SubjectFound { image: sha256, name: None, bounding_box: area, score: None, how: FoundBy::WholeImage };
        let images = (0..images).map(image).collect();
        JobResult { subject: Some(subject), ..JobResult::completed(job, images, "1", Timestamp::UNIX_EPOCH) }
    }

    struct Desk {
        work: MemoryObjectStore,
        pictures: MemoryObjectStore,
    }

    impl Desk {
        async fn new() -> Self {
            let (work, pictures) = (MemoryObjectStore::new(), MemoryObjectStore::new());
            let png = echogen_imaging::encode_image(&RgbImage::new(900, 20), ImageFormat::Png, 100).unwrap();
            pictures.put(&ObjectKey::new("a/image-0.png").unwrap(), png.into()).await.unwrap();
            Self { work, pictures }
        }

        async fn draw(&self, lines: impl Iterator<Item = u64>, images: usize, max_pages: usize) -> Drawn {
            let mut collection = Collection::new(max_pages);
            for line in lines {
                let job = Job { id: JobId("a".into()), ..Job::new("a.png".into(), format!("prompt {line}")) };
                collection.add(line, &job, &result(&job, images));
            }
            assert!(collection.cards <= max_pages * MAX_CARDS);
            collection.draw("sheet", &self.work, &self.pictures).await.unwrap()
        }

        async fn page(&self, key: &str) -> Option<Bytes> {
            self.pictures.get(&ObjectKey::new(key).unwrap(), MAX_BYTES).await.unwrap()
        }
    }

    #[tokio::test]
    async fn every_job_is_on_a_page_in_the_order_of_the_lines() {
        let desk = Desk::new().await;
        let drawn = desk.draw(1..=50, 1, 25).await;
        assert_eq!(drawn, Drawn { pages: vec!["sheet.png".into(), "sheet-page-2.png".into()], hidden: 0 });
        let forwards = (desk.page("sheet.png").await, desk.page("sheet-page-2.png").await);
        desk.draw((1..=50).rev(), 1, 25).await;
        assert_eq!(forwards, (desk.page("sheet.png").await, desk.page("sheet-page-2.png").await));
        assert_ne!(forwards.0, forwards.1);
        desk.draw(1..=3, 1, 25).await;
        assert!(desk.page("sheet-page-2.png").await.is_none(), "a page of a longer sheet is not left over");
    }

    #[tokio::test]
    async fn pages_are_bounded_and_the_rest_is_counted() {
        let desk = Desk::new().await;
        assert_eq!(desk.draw(1..=100, 1, 2).await, Drawn { pages: desk_pages(2), hidden: 20 });
        assert_eq!(desk.draw(1..=100, 1, 0).await, Drawn { pages: vec![], hidden: 100 });
        assert_eq!(desk.draw(std::iter::empty(), 1, 2).await, Drawn { pages: vec![], hidden: 0 });
    }

    fn desk_pages(count: usize) -> Vec<String> {
        (1..=count).map(|page| page_key("sheet", page)).collect()
    }

    #[tokio::test]
    async fn every_picture_of_a_job_is_shown() {
        let desk = Desk::new().await;
        // 64 pictures are 16 cards; three such jobs are more than a page holds.
        assert_eq!(desk.draw(1..=3, 64, 25).await.pages.len(), 2);
        let entry = Entry {
            subject: ContentHash::of(b""),
            caption: "a dog".into(),
            images: (0..9).map(|n| n.to_string()).collect(),
        };
        let parts = Part::of(&entry);
        let captions: Vec<&str> = parts.iter().map(|part| part.caption.as_str()).collect();
        assert_eq!(captions, ["1 to 4 of 9: a dog", "5 to 8 of 9: a dog", "9 to 9 of 9: a dog"]);
        assert_eq!(
            parts.iter().flat_map(|part| part.images).collect::<Vec<_>>(),
            entry.images.iter().collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_caption_is_that_of_the_pictures_whatever_the_line_says_now() {
        let job = Job { id: JobId("a".into()), ..Job::new("a.png".into(), "the new prompt") };
        let mut result = result(&job, 1);
        result.parameters = Some(Parameters { prompt: "the old prompt".into(), ..parameters(&job, "paint", 2) });
        let mut collection = Collection::new(1);
        collection.add(1, &job, &result);
        assert_eq!(collection.first[&1].caption, "the old prompt");
    }
}
