//! The pictures of one job: each is stored as soon as it is made, and kept by a job that comes again.
//!
//! Which pictures are stored is noted in the cache while others are still missing. The note names what they were made with:
//! pictures of other networks or parameters are made again. Losing it costs time, never a picture.

use std::{collections::BTreeMap, time::Duration};

use echogen_ports::{Cache, Fault};
use echogen_protocol::{
    ContentHash, Job, Parameters, ResultImage, Usage, WithheldImage,
    json::{self, Bounds},
};
use serde::{Deserialize, Serialize};
use tracing::debug;

/// How long a note stays: longer than a task waits between two attempts.
const TTL: Duration = Duration::from_secs(24 * 3_600);

/// The pictures of a job, by the index of their seeds.
pub(crate) struct JobPictures {
    key: String,
    note: Note,
    seeds: Vec<u64>,
}

/// What became of a picture that is made.
pub(crate) enum Picture {
    /// It is stored.
    Stored(ResultImage),
    /// The content gate withholds it, for this reason.
    Withheld(String),
}

/// What is noted of a job in the cache.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// A hash of everything that the pictures depend on.
    made_with: ContentHash,
    /// The stored pictures.
    images: BTreeMap<usize, ResultImage>,
    /// The reasons for which pictures are withheld.
    #[serde(default)]
    withheld: BTreeMap<usize, String>,
    /// The time that the networks' thread has spent on them.
    #[serde(default)]
    device_seconds: f64,
    /// The previews that are stored.
    #[serde(default)]
    previews: u64,
}

impl JobPictures {
    /// The pictures of a job that is sampled with these parameters and networks; none is there yet.
    pub(crate) fn new(job: &Job, parameters: &Parameters, models: &BTreeMap<String, String>) -> Self {
        let seeds = job.seeds.values();
        let made_with = serde_json::to_vec(&(parameters, models, &seeds)).unwrap_or_default();
        let made_with = ContentHash::of(&made_with);
        let (images, withheld) = (BTreeMap::new(), BTreeMap::new());
        let note = Note { made_with, images, withheld, device_seconds: 0.0, previews: 0 };
        Self { key: format!("job-pictures/{}", job.result_prefix()), note, seeds }
    }

    /// Takes over the pictures that an earlier attempt has stored; where pictures are checked, those that it has checked.
    pub(crate) async fn recall(&mut self, cache: &dyn Cache, are_checked: bool) {
        let found = cache.get(&self.key).await.inspect_err(|error| debug!(%error, "stored pictures not looked up"));
        let note = found.ok().flatten().and_then(|json| json::read::<Note>(&json, &Bounds::MESSAGE).ok());
        if let Some(note) = note.filter(|note| note.made_with == self.note.made_with) {
            self.note = note;
            self.note.images.retain(|index, image| {
                self.seeds.get(*index) == Some(&image.seed) && (!are_checked || image.safety.is_some())
            });
            self.note.withheld.retain(|index, _| are_checked && *index < self.seeds.len());
        }
    }

    /// The indices of the seeds without a picture.
    pub(crate) fn missing(&self) -> Vec<usize> {
        let is_made = |index: &usize| self.note.images.contains_key(index) || self.note.withheld.contains_key(index);
        (0..self.seeds.len()).filter(|index| !is_made(index)).collect()
    }

    /// The seed of a picture.
    pub(crate) fn seed(&self, index: usize) -> u64 {
        self.seeds.get(index).copied().unwrap_or_default()
    }

    /// A picture is stored or withheld.
    pub(crate) fn add(&mut self, index: usize, picture: Picture) {
        match picture {
            Picture::Stored(image) => drop(self.note.images.insert(index, image)),
            Picture::Withheld(reason) => drop(self.note.withheld.insert(index, reason)),
        }
    }

    /// A picture has taken so much of the time of the networks' thread.
    pub(crate) fn note_device_time(&mut self, device_time: Duration) {
        self.note.device_seconds += device_time.as_secs_f64();
    }

    /// So many previews are stored.
    pub(crate) fn note_previews(&mut self, count: usize) {
        self.note.previews += count as u64;
    }

    /// What the pictures so far have taken.
    pub(crate) fn usage(&self) -> Usage {
        let pixels = self.note.images.values().map(|image| u64::from(image.width) * u64::from(image.height));
        Usage {
            images: self.note.images.len() as u64,
            megapixels: pixels.sum::<u64>() as f64 / 1e6,
            device_seconds: self.note.device_seconds,
            previews: self.note.previews,
        }
    }

    /// Notes which pictures are stored, if others are missing.
    pub(crate) async fn note(&self, cache: &dyn Cache) {
        if self.missing().is_empty() {
            return;
        }
        let json = serde_json::to_vec(&self.note).unwrap_or_default();
        if let Err(error) = cache.put(&self.key, json.into(), TTL).await {
            debug!(%error, "stored pictures not noted");
        }
    }

    /// All pictures, and those that are withheld, in the order of the seeds.
    pub(crate) fn all(self) -> Result<(Vec<ResultImage>, Vec<WithheldImage>), Fault> {
        let (made, seeds) = (self.note.images.len() + self.note.withheld.len(), self.seeds.len());
        if made != seeds {
            return Err(Fault::internal(format!("{made} pictures were made for {seeds} seeds")));
        }
        let seed = |index: usize| self.seeds.get(index).copied().unwrap_or_default();
        let withheld = self.note.withheld.into_iter();
        let withheld = withheld.map(|(index, reason)| WithheldImage { index, seed: seed(index), reason });
        Ok((self.note.images.into_values().collect(), withheld.collect()))
    }
}
