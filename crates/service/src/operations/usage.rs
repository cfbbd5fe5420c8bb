//! Sums what the jobs of the HTTP API have used, from their records and results in the store; no server is asked.

use std::{collections::BTreeMap, sync::Arc};

use echogen_ports::{Fault, ObjectKey, ObjectStore};
use echogen_protocol::{
    JobId, JobStatus,
    json::{self, Bounds},
};
use echogen_tenants::{Prices, TenantName, UsageBy, UsageSums, Used};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};

use crate::{Failure, backends::Stores, config::ServiceConfig};

/// The folders that gateways write: a record of each job, and names that begin with a time that counts down.
const RECORDS: &str = "echogen-gateway/records";
const RECENT: &str = "echogen-gateway/recent";

/// From what the times of those names count down, in milliseconds.
const LATEST: i64 = 9_999_999_999_999;

/// Keys of a page.
const PAGE: usize = 1_000;

/// Jobs that are read at the same time.
const AT_ONCE: usize = 16;

/// Bytes of the largest record and of the largest result.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Which jobs, and what to sum by.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// Only this tenant's.
    pub tenant: Option<TenantName>,
    /// Only those that came at this time or later.
    pub from: Option<Timestamp>,
    /// Only those that came before this time.
    pub until: Option<Timestamp>,
    /// What a sum is for.
    pub by: UsageBy,
}

/// What is needed of a job's record.
#[derive(Deserialize)]
struct Record {
    id: JobId,
    created: Timestamp,
    #[serde(default)]
    prices: RecordedPrices,
    request: Request,
}

#[derive(Default, Deserialize)]
struct RecordedPrices {
    #[serde(default)]
    picture: f64,
    #[serde(default)]
    megapixel: f64,
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    output: Output,
}

#[derive(Default, Deserialize)]
struct Output {
    destination: Option<String>,
}

/// What is needed of a job's result.
#[derive(Deserialize)]
struct Outcome {
    status: JobStatus,
    #[serde(default)]
    images: Vec<Picture>,
    /// Absent in results of earlier versions.
    usage: Option<Device>,
}

#[derive(Deserialize)]
struct Picture {
    width: u32,
    height: u32,
}

#[derive(Deserialize)]
struct Device {
    #[serde(default)]
    device_seconds: f64,
}

/// Sums what jobs have used.
pub async fn usage(config: &ServiceConfig, query: &UsageQuery) -> Result<UsageSums, Failure> {
    let store = Stores::open(config).await?.results;
    sum(&store, query).await.map_err(|error| Failure::refused("usage cannot be summed", &error))
}

async fn sum(store: &Arc<dyn ObjectStore>, query: &UsageQuery) -> Result<UsageSums, Fault> {
    let mut sums = UsageSums::new(query.by.clone());
    let tenants = match &query.tenant {
        Some(tenant) => vec![tenant.clone()],
        None => tenants(&**store).await?,
    };
    for tenant in tenants {
        let prefix = format!("{RECENT}/{tenant}/");
        // A name without an id comes before all of its time.
        let first = query.until.map_or(0, |until| countdown(until).saturating_add(1));
        let mut after = ObjectKey::new(format!("{prefix}{first:013}"))?;
        loop {
            let page = store.list(&prefix, Some(&after), PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.clone();
            let ids: Vec<JobId> = page.iter().map_while(|key| id_of(key, &prefix, query.from)).collect();
            let is_last = page.len() < PAGE || ids.len() < page.len();
            add(store, &tenant, ids, &mut sums).await?;
            if is_last {
                break;
            }
        }
    }
    Ok(sums)
}

/// A time as the names have it.
fn countdown(time: Timestamp) -> i64 {
    LATEST.saturating_sub(time.as_millisecond()).clamp(0, LATEST)
}

/// The job that a name in the listing is of; `None` if it came before `from`, as all that follow.
fn id_of(key: &ObjectKey, prefix: &str, from: Option<Timestamp>) -> Option<JobId> {
    let (time, id) = key.as_str().strip_prefix(prefix)?.split_once('-')?;
    let is_before = from.is_some_and(|from| time.parse().is_ok_and(|time: i64| time > countdown(from)));
    (!is_before).then(|| JobId(id.to_owned()))
}

/// All tenants that have jobs: one call for each, as the listing goes on behind all names of the one before.
async fn tenants(store: &dyn ObjectStore) -> Result<Vec<TenantName>, Fault> {
    let (mut found, mut after): (Vec<TenantName>, Option<ObjectKey>) = (Vec::new(), None);
    loop {
        let next = store.list(&format!("{RECENT}/"), after.as_ref(), 1).await?;
        let name = next.first().and_then(|key| key.as_str().strip_prefix(RECENT)?.split('/').nth(1));
        let Some(name) = name else { return Ok(found) };
        // The names begin with digits, which are before letters.
        after = Some(ObjectKey::new(format!("{RECENT}/{name}/z"))?);
        // Folders of other names are not the gateways'.
        found.extend(name.parse());
    }
}

async fn add(
    store: &Arc<dyn ObjectStore>,
    tenant: &TenantName,
    ids: Vec<JobId>,
    sums: &mut UsageSums,
) -> Result<(), Fault> {
    let read = stream::iter(ids).map(|id| read_job(Arc::clone(store), tenant.clone(), id)).buffer_unordered(AT_ONCE);
    let mut read = std::pin::pin!(read);
    while let Some(job) = read.try_next().await? {
        // One that was deleted meanwhile is not counted.
        if let Some((record, used)) = job {
            sums.add(tenant, record.created, &record.request.metadata, &used);
        }
    }
    Ok(())
}

async fn read_job(store: Arc<dyn ObjectStore>, tenant: TenantName, id: JobId) -> Result<Option<(Record, Used)>, Fault> {
    let key = ObjectKey::new(format!("{RECORDS}/{tenant}/{id}.json"))?;
    let Some(record) = read_json::<Record>(&*store, &key).await? else { return Ok(None) };
    let result = ObjectKey::new(record.id.result_key(record.request.output.destination.as_deref()))?;
    let used = match read_json::<Outcome>(&*store, &result).await? {
        Some(outcome) if outcome.status == JobStatus::Completed => used(&record, &outcome),
        _ => Used::NOTHING,
    };
    Ok(Some((record, used)))
}

fn used(record: &Record, outcome: &Outcome) -> Used {
    let RecordedPrices { picture, megapixel } = record.prices;
    let pixels: f64 = outcome.images.iter().map(|image| f64::from(image.width) * f64::from(image.height)).sum();
    let seconds = outcome.usage.as_ref().map_or(0.0, |usage| usage.device_seconds);
    Used::of_pictures(outcome.images.len() as u64, pixels / 1e6, seconds, Prices { picture, megapixel })
}

async fn read_json<T: DeserializeOwned>(store: &dyn ObjectStore, key: &ObjectKey) -> Result<Option<T>, Fault> {
    let Some(bytes) = store.get(key, MAX_BYTES).await? else { return Ok(None) };
    let read = json::read(&bytes, &Bounds::MESSAGE);
    read.map(Some).map_err(|error| Fault::internal(format!("the object {key} cannot be read")).because(error))
}

#[cfg(test)]
mod tests;
