//! The pictures of one job: each is stored as soon as it is made, and kept by a job that comes again.
//!
//! Which pictures are stored is noted in the cache while others are still missing. The note names what they were made with:
//! pictures of other networks or parameters are made again. Losing it costs time, never a picture.

use std::collections::BTreeMap;

use echogen_ports::{Cache, Fault};
use echogen_protocol::{
    ContentHash, Job, Parameters, ResultImage,
    json::{self, Bounds},
};
use serde::{Deserialize, Serialize};
use tracing::debug;

/// How long a note stays: longer than a task waits between two attempts.
const TTL: std::time::Duration = std::time::Duration::from_secs(24 * 3_600);

/// The pictures of a job, by the index of their seeds.
pub(crate) struct JobPictures {
    key: String,
    note: Note,
    seeds: Vec<u64>,
}

/// What is noted of a job in the cache.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// A hash of everything that the pictures depend on.
    made_with: ContentHash,
    /// The stored pictures.
    images: BTreeMap<usize, ResultImage>,
}

impl JobPictures {
    /// The pictures of a job that is sampled with these parameters and networks; none is there yet.
    pub(crate) fn new(job: &Job, parameters: &Parameters, models: &BTreeMap<String, String>) -> Self {
        let seeds = job.seeds.values();
        let made_with = serde_json::to_vec(&(parameters, models, &seeds)).unwrap_or_default();
        let note = Note { made_with: ContentHash::of(&made_with), images: BTreeMap::new() };
        Self { key: format!("job-pictures/{}", job.result_prefix()), note, seeds }
    }

    /// Takes over the pictures that an earlier attempt has stored.
    pub(crate) async fn recall(&mut self, cache: &dyn Cache) {
        let found = cache.get(&self.key).await.inspect_err(|error| debug!(%error, "stored pictures not looked up"));
        let note = found.ok().flatten().and_then(|json| json::read::<Note>(&json, &Bounds::MESSAGE).ok());
        if let Some(note) = note.filter(|note| note.made_with == self.note.made_with) {
            self.note.images = note.images;
            self.note.images.retain(|index, image| self.seeds.get(*index) == Some(&image.seed));
        }
    }

    /// The indices of the seeds without a picture.
    pub(crate) fn missing(&self) -> Vec<usize> {
        (0..self.seeds.len()).filter(|index| !self.note.images.contains_key(index)).collect()
    }

    /// The seed of a picture.
    pub(crate) fn seed(&self, index: usize) -> u64 {
        self.seeds.get(index).copied().unwrap_or_default()
    }

    /// A picture is stored.
    pub(crate) fn add(&mut self, index: usize, image: ResultImage) {
        self.note.images.insert(index, image);
    }

    /// Notes which pictures are stored, if others are missing.
    pub(crate) async fn note(&self, cache: &dyn Cache) {
        if self.note.images.len() == self.seeds.len() {
            return;
        }
        let json = serde_json::to_vec(&self.note).unwrap_or_default();
        if let Err(error) = cache.put(&self.key, json.into(), TTL).await {
            debug!(%error, "stored pictures not noted");
        }
    }

    /// All pictures, in the order of the seeds.
    pub(crate) fn all(self) -> Result<Vec<ResultImage>, Fault> {
        let (made, seeds) = (self.note.images.len(), self.seeds.len());
        if made != seeds {
            return Err(Fault::internal(format!("{made} pictures were made for {seeds} seeds")));
        }
        Ok(self.note.images.into_values().collect())
    }
}
