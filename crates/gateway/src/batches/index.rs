//! What the result store has of batches.

use std::{iter::StepBy, ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use echogen_ports::{Fault, ObjectKey, ObjectStore};
use echogen_protocol::{
    JobId,
    json::{self, Bounds},
};
use echogen_tenants::TenantName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::jobs::{FOLDER, countdown, cursor_key};

/// Lines of a batch.
pub(super) const MAX_LINES: u64 = 100_000;

/// Lines of an object of the index.
pub(super) const LINES_OF_CHUNK: u64 = 500;

/// Bytes of an object of the index: so many lines with an error each stay far below.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Characters of a batch's id.
const MAX_ID_CHARS: usize = 64;

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(super) id: String,
    pub(super) created: Timestamp,
    /// The number of the last line that was read.
    pub(super) lines: u64,
    pub(super) jobs: u64,
    pub(super) refused: u64,
    /// Whether all lines were read.
    pub(super) complete: bool,
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Entry {
    /// It is a job.
    Job { line: u64, job: JobId, destination: Option<String> },
    /// It is none.
    Error { line: u64, error: String },
}

impl Entry {
    pub(super) fn line(&self) -> u64 {
        match self {
            Self::Job { line, .. } | Self::Error { line, .. } => *line,
        }
    }
}

impl Description {
    pub(super) fn new(id: String, created: Timestamp) -> Self {
        Self { id, created, lines: 0, jobs: 0, refused: 0, complete: false }
    }

    /// The same batch after it was sent again and broke off, which takes nothing away.
    pub(super) fn at_least(&self, before: &Self) -> Self {
        Self {
            lines: self.lines.max(before.lines),
            jobs: self.jobs.max(before.jobs),
            refused: self.refused.max(before.refused),
            complete: self.complete || before.complete,
            ..self.clone()
        }
    }

    /// The first lines of all objects that the index can have.
    pub(super) fn chunks(&self) -> StepBy<RangeInclusive<u64>> {
        (1..=self.lines.min(MAX_LINES)).step_by(usize::try_from(LINES_OF_CHUNK).unwrap_or(1))
    }
}

/// The first line of the object that a line is in.
pub(super) fn chunk_of(line: u64) -> u64 {
    (line.max(1) - 1) / LINES_OF_CHUNK * LINES_OF_CHUNK + 1
}

/// The batches in the result store.
#[derive(Clone, Debug)]
pub(crate) struct Batches {
    store: Arc<dyn ObjectStore>,
}

impl Batches {
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store }
    }

    /// Returns the batch, if there is one and the text is an id.
    pub(super) async fn find(&self, tenant: &TenantName, id: &str) -> Result<Option<Description>, Fault> {
        let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if id.is_empty() || id.len() > MAX_ID_CHARS || !id.bytes().all(is_id) {
            return Ok(None);
        }
        self.read(&description_key(tenant, id)?).await
    }

    /// Writes a batch unless its id has one, and enters it into the listing; returns the one that is there.
    pub(super) async fn open(&self, tenant: &TenantName, batch: Description) -> Result<Description, Fault> {
        let key = description_key(tenant, &batch.id)?;
        let is_new = self.store.put_if_absent(&key, json_of(&batch)?).await?;
        let before = if is_new { None } else { self.read(&key).await? };
        let batch = before.unwrap_or(batch);
        // Also of one that was there: whoever wrote it may have ended before this.
        let recent = format!("{FOLDER}/recent-batches/{tenant}/{:013}-{}", countdown(batch.created), batch.id);
        self.store.put(&ObjectKey::new(recent)?, Bytes::from_static(b"{}")).await?;
        Ok(batch)
    }

    pub(super) async fn put(&self, tenant: &TenantName, batch: &Description) -> Result<(), Fault> {
        self.store.put(&description_key(tenant, &batch.id)?, json_of(batch)?).await
    }

    /// Returns the ids of a tenant's batches, the newest first, from behind the cursor on; each with its own cursor.
    pub(super) async fn recent(
        &self,
        tenant: &TenantName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, String)>, Fault> {
        let prefix = format!("{FOLDER}/recent-batches/{tenant}/");
        let after = after.map(|cursor| cursor_key(&prefix, cursor)).transpose()?;
        let keys = self.store.list(&prefix, after.as_ref(), limit).await?;
        let entry = |key: ObjectKey| {
            let cursor = key.as_str().strip_prefix(&prefix)?.to_owned();
            let (_, id) = cursor.split_once('-')?;
            Some((cursor.clone(), id.to_owned()))
        };
        Ok(keys.into_iter().filter_map(entry).collect())
    }

    /// Returns what became of the lines of an object of the index, in their order; none if it was not written.
    pub(super) async fn entries(&self, tenant: &TenantName, id: &str, chunk: u64) -> Result<Vec<Entry>, Fault> {
        Ok(self.read(&lines_key(tenant, id, chunk)?).await?.unwrap_or_default())
    }

    pub(super) async fn put_entries(
        &self,
        tenant: &TenantName,
        id: &str,
        chunk: u64,
        entries: &[Entry],
    ) -> Result<(), Fault> {
        self.store.put(&lines_key(tenant, id, chunk)?, json_of(&entries)?).await
    }

    async fn read<T: DeserializeOwned>(&self, key: &ObjectKey) -> Result<Option<T>, Fault> {
        let Some(bytes) = self.store.get(key, MAX_BYTES).await? else { return Ok(None) };
        // A list of many small objects, which has more structure than any message.
        let read = json::read(&bytes, &Bounds::table(usize::try_from(MAX_BYTES).unwrap_or(usize::MAX)));
        read.map(Some).map_err(|error| Fault::internal(format!("the object {key} cannot be read")).because(error))
    }
}

fn json_of(value: &impl Serialize) -> Result<Bytes, Fault> {
    let json = serde_json::to_vec(value);
    json.map(Bytes::from).map_err(|error| Fault::internal("a batch cannot be written as JSON").because(error))
}

fn description_key(tenant: &TenantName, id: &str) -> Result<ObjectKey, Fault> {
    Ok(ObjectKey::new(format!("{FOLDER}/batches/{tenant}/{id}.json"))?)
}

fn lines_key(tenant: &TenantName, id: &str, chunk: u64) -> Result<ObjectKey, Fault> {
    Ok(ObjectKey::new(format!("{FOLDER}/batch-lines/{tenant}/{id}/{chunk:08}.json"))?)
}

#[cfg(test)]
mod tests {
    use echogen_ports::MemoryObjectStore;

    use super::*;

    #[test]
    fn a_line_is_in_one_object_of_the_index() {
        assert_eq!([1, 500, 501, 1_000, 1_001].map(chunk_of), [1, 1, 501, 501, 1_001]);
        let batch = |lines| Description { lines, ..Description::new("a".into(), Timestamp::UNIX_EPOCH) };
        assert_eq!(batch(0).chunks().count(), 0);
        assert_eq!(batch(501).chunks().collect::<Vec<_>>(), [1, 501]);
        assert_eq!(batch(u64::MAX).chunks().count(), 200);
    }

    #[tokio::test]
    async fn an_id_is_one_batch_and_a_text_that_is_none_is_not_found() {
        let (batches, tenant) = (Batches::new(Arc::new(MemoryObjectStore::new())), "acme".parse().unwrap());
        let first = Description::new("a".into(), Timestamp::UNIX_EPOCH);
        let second = Description { created: Timestamp::MAX, ..first.clone() };
        assert_eq!(batches.open(&tenant, first.clone()).await.unwrap(), first);
        assert_eq!(batches.open(&tenant, second).await.unwrap(), first);
        assert_eq!(batches.recent(&tenant, None, 9).await.unwrap().len(), 1);
        for none in ["", "b", "..", "a/b", "a.json", &"a".repeat(65)] {
            assert_eq!(batches.find(&tenant, none).await.unwrap(), None, "{none}");
        }
    }
}
