//! What is recorded of a job before it is published: its request, its content, and when it came.
//!
//! | key in the result store | contains |
//! |---|---|
//! | `echogen-gateway/records/TENANT/ID.json` | the record, put only if absent: an id belongs to one request |
//! | `echogen-gateway/recent/TENANT/TIME-ID` | nothing but its name: `TIME` counts down, so that a listing begins with the newest |

use std::sync::Arc;

use bytes::Bytes;
use echogen_ports::{Fault, FaultKind, ObjectKey, ObjectStore};
use echogen_protocol::{
    ContentHash, Job, JobId, JobResult,
    json::{self, Bounds},
    limits,
};
use echogen_tenants::{Prices, TenantName, Used};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use super::{RecordCache, record_cache};

/// The folder of everything that gateways write beside results.
pub(crate) const FOLDER: &str = "echogen-gateway";

/// Bytes of a record. A request without its picture has a few kilobytes.
const MAX_RECORD_BYTES: u64 = 1024 * 1024;

/// Later than every time that is written as thirteen digits of milliseconds.
const LATEST: i64 = 9_999_999_999_999;

/// A time as the names of a listing have it: the later, the less.
pub(crate) fn countdown(time: Timestamp) -> i64 {
    LATEST.saturating_sub(time.as_millisecond()).clamp(0, LATEST)
}

/// The key that a cursor of a listing stands for. One that is no cursor is the caller's fault.
pub(crate) fn cursor_key(prefix: &str, cursor: &str) -> Result<ObjectKey, Fault> {
    if !is_cursor(cursor) {
        return Err(Fault::new(FaultKind::InvalidJob, "this is no cursor of a page"));
    }
    ObjectKey::new(format!("{prefix}{cursor}")).map_err(|error| Fault::from_error(FaultKind::InvalidJob, error))
}

/// Whether a text is the name of an entry: the time in thirteen digits, and an id, or nothing for what comes before all ids of
/// that time. A store may refuse longer names.
fn is_cursor(text: &str) -> bool {
    let is_time = |time: &str| time.len() == 13 && time.bytes().all(|byte| byte.is_ascii_digit());
    let is_id = |id: &str| {
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        id.len() <= limits::MAX_ID_CHARS && id.bytes().all(is_good)
    };
    text.split_once('-').is_some_and(|(time, id)| is_time(time) && is_id(id))
}

/// The record of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The job's id, `TENANT.ID`.
    pub id: JobId,
    /// Whose it is.
    pub tenant: TenantName,
    /// When it came.
    pub created: Timestamp,
    /// What it asks for; see [`Job::content`].
    pub content: ContentHash,
    /// The batch that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<String>,
    /// The prices of its tenant at that time.
    #[serde(default, deserialize_with = "known_prices")]
    pub prices: Prices,
    /// The job as it was published.
    pub request: Job,
    /// Bytes of the record as it is stored.
    #[serde(skip)]
    pub bytes: usize,
}

/// Reads the prices of a record. Unlike in the file of tenants, a price that a later version added is no mistake.
fn known_prices<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Prices, D::Error> {
    #[derive(Deserialize)]
    struct Known {
        #[serde(default)]
        picture: f64,
        #[serde(default)]
        megapixel: f64,
    }
    Known::deserialize(deserializer).map(|Known { picture, megapixel }| Prices { picture, megapixel })
}

impl JobRecord {
    /// The record of a job that comes now.
    pub fn new(tenant: TenantName, request: Job, created: Timestamp, batch: Option<String>, prices: Prices) -> Self {
        let (id, content) = (request.id.clone(), request.content());
        Self { id, tenant, created, content, batch, prices, request, bytes: 0 }
    }

    fn recent_key(&self) -> Result<ObjectKey, Fault> {
        let time = countdown(self.created);
        Ok(ObjectKey::new(format!("{FOLDER}/recent/{}/{time:013}-{}", self.tenant, self.id))?)
    }

    /// What the result used, at the record's prices.
    pub(crate) fn used(&self, result: &JobResult) -> Used {
        let pixels: f64 = result.images.iter().map(|image| f64::from(image.width) * f64::from(image.height)).sum();
        // Absent in results of earlier versions.
        let device_seconds = result.usage.as_ref().map_or(0.0, |usage| usage.device_seconds);
        Used::of_pictures(result.images.len() as u64, pixels / 1e6, device_seconds, self.prices)
    }
}

/// The records in the result store.
#[derive(Clone, Debug)]
pub struct Records {
    store: Arc<dyn ObjectStore>,
    cache: RecordCache,
}

/// What [`Records::create`] found.
#[derive(Debug)]
pub(crate) enum Created {
    /// The record is new.
    New(Arc<JobRecord>),
    /// The id has a record already.
    Existing(Arc<JobRecord>),
}

impl Records {
    /// The records in a result store.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, cache: record_cache() }
    }

    /// Returns the record of a job. One that another gateway has just deleted may still be found for a minute.
    pub async fn find(&self, tenant: &TenantName, id: &JobId) -> Result<Option<Arc<JobRecord>>, Fault> {
        match self.cache.get(key(tenant, id)?.as_str()) {
            Some(record) => Ok(Some(record)),
            None => self.read(tenant, id).await,
        }
    }

    /// Returns the record of a job as the store has it now.
    pub(crate) async fn read(&self, tenant: &TenantName, id: &JobId) -> Result<Option<Arc<JobRecord>>, Fault> {
        let key = key(tenant, id)?;
        let Some(bytes) = self.store.get(&key, MAX_RECORD_BYTES).await? else { return Ok(None) };
        let record: JobRecord = json::read(&bytes, &Bounds::MESSAGE).map_err(|error| {
            Fault::internal(format!("the object {key} cannot be read as the record of a job")).because(error)
        })?;
        Ok(Some(self.remember(&key, record, bytes.len())))
    }

    /// Writes a record unless its id has one. Of many simultaneous callers exactly one finds it new.
    pub(crate) async fn create(&self, record: JobRecord) -> Result<Created, Fault> {
        let key = key(&record.tenant, &record.id)?;
        let json = serde_json::to_vec(&record)
            .map_err(|error| Fault::internal("a record cannot be written as JSON").because(error))?;
        let bytes = json.len();
        if bytes as u64 > MAX_RECORD_BYTES {
            return Err(Fault::new(
                FaultKind::TooLarge,
                format!("the job without its picture has {bytes} bytes; the limit is {MAX_RECORD_BYTES}"),
            ));
        }
        if self.store.put_if_absent(&key, json.into()).await? {
            return Ok(Created::New(self.remember(&key, record, bytes)));
        }
        match self.read(&record.tenant, &record.id).await? {
            Some(existing) => Ok(Created::Existing(existing)),
            None => Err(Fault::unavailable(format!("the object {key} was there, and is gone again"))),
        }
    }

    /// Enters a record into the listing. Idempotent.
    pub(crate) async fn enlist(&self, record: &JobRecord) -> Result<(), Fault> {
        self.store.put(&record.recent_key()?, Bytes::from_static(b"{}")).await
    }

    /// Removes a record: first from the listing, at last itself.
    pub(crate) async fn delete(&self, record: &JobRecord) -> Result<(), Fault> {
        self.store.delete(&record.recent_key()?).await?;
        let key = key(&record.tenant, &record.id)?;
        self.cache.invalidate(key.as_str());
        self.store.delete(&key).await
    }

    /// Returns the ids of a tenant's jobs, the newest first, from behind the cursor on; each with its own cursor.
    pub(crate) async fn recent(
        &self,
        tenant: &TenantName,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, JobId)>, Fault> {
        let prefix = format!("{FOLDER}/recent/{tenant}/");
        let after = after.map(|cursor| cursor_key(&prefix, cursor)).transpose()?;
        let keys = self.store.list(&prefix, after.as_ref(), limit).await?;
        let entry = |key: ObjectKey| {
            let cursor = key.as_str().strip_prefix(&prefix)?.to_owned();
            let (_, id) = cursor.split_once('-')?;
            Some((cursor.clone(), JobId(id.to_owned())))
        };
        Ok(keys.into_iter().filter_map(entry).collect())
    }

    /// Returns all tenants that have jobs: one call for each, as the listing goes on behind all names of the one before.
    pub async fn tenants(&self) -> Result<Vec<TenantName>, Fault> {
        let prefix = format!("{FOLDER}/recent/");
        let (mut found, mut after): (Vec<TenantName>, Option<ObjectKey>) = (Vec::new(), None);
        loop {
            let next = self.store.list(&prefix, after.as_ref(), 1).await?;
            let name = next.first().and_then(|key| key.as_str().strip_prefix(&prefix)?.split('/').next());
            let Some(name) = name else { return Ok(found) };
            // The names begin with digits, which are before letters.
            after = Some(ObjectKey::new(format!("{prefix}{name}/z"))?);
            // Folders of other names are not the gateways'.
            found.extend(name.parse());
        }
    }

    fn remember(&self, key: &ObjectKey, record: JobRecord, bytes: usize) -> Arc<JobRecord> {
        let record = Arc::new(JobRecord { bytes, ..record });
        self.cache.insert(key.as_str().to_owned(), Arc::clone(&record));
        record
    }
}

fn key(tenant: &TenantName, id: &JobId) -> Result<ObjectKey, Fault> {
    Ok(ObjectKey::new(format!("{FOLDER}/records/{tenant}/{id}.json"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_time_and_an_id() {
        for good in ["8231111111111-acme.mug", "8231111111111-acme.a-b_c.1", "8231111111111-"] {
            assert!(cursor_key("recent/", good).is_ok(), "{good}");
        }
        // A store may refuse a name of this length.
        let long = format!("8231111111111-{}", "0".repeat(limits::MAX_ID_CHARS + 1));
        for wrong in ["", "acme.mug", "8231111111111", "823111111111x-a", "8231111111111-a/../b", "../x", &long] {
            let fault = cursor_key("recent/", wrong).unwrap_err();
            assert_eq!(fault.kind(), FaultKind::InvalidJob, "{wrong}");
        }
    }
}
