//! What a tenant's jobs have used, summed from their records and results. No server but the result store is asked, so commands
//! sum by the same function.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State},
};
use echogen_ports::{Fault, ObjectKey, ObjectStore};
use echogen_protocol::{
    JobId, JobResult, JobStatus,
    json::{self, Bounds},
};
use echogen_tenants::{TenantName, UsageBy, UsageSums, Used};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::{
    Timestamp,
    civil::Date,
    tz::{Offset, TimeZone},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Gateway,
    authentication::Caller,
    jobs::{JobRecord, Records, countdown, page_fault},
    problem::Problem,
};

/// Jobs that one request sums at most.
const MOST: usize = 20_000;

/// Names of a page of the listing.
const PAGE: usize = 1_000;

/// Jobs that are read at the same time.
const AT_ONCE: usize = 32;

/// Bytes of a result.
const MAX_RESULT_BYTES: u64 = 16 * 1024 * 1024;

/// Days that are summed unless the request says which.
const DAYS: i64 = 30;

/// Which jobs are summed, and by what.
#[derive(Clone, Debug)]
pub struct UsageRange {
    /// Only jobs that came at this time or later.
    pub from: Option<Timestamp>,
    /// Only jobs that came before this time.
    pub until: Option<Timestamp>,
    /// What a sum is for.
    pub by: UsageBy,
    /// The `next` of the sums before.
    pub after: Option<String>,
    /// At most so many jobs, the newest first.
    pub most: usize,
}

/// Sums of some jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct UsagePage {
    /// The sums.
    pub sums: UsageSums,
    /// Where the sums of the following jobs begin; `None` if there are no more.
    pub next: Option<String>,
}

/// Sums what a tenant's jobs have used. Jobs that were deleted are not counted.
///
/// # Errors
///
/// The store cannot be read, or `after` is of no page: a fault of the kind `InvalidJob`.
pub async fn sum(
    store: &Arc<dyn ObjectStore>,
    records: &Records,
    tenant: &TenantName,
    range: &UsageRange,
) -> Result<UsagePage, Fault> {
    let mut sums = UsageSums::new(range.by.clone());
    let next = add(store, records, tenant, range, &mut sums).await?;
    Ok(UsagePage { sums, next })
}

/// Adds what a tenant's jobs have used to sums, as [`sum`] does; returns where the rest begins.
///
/// # Errors
///
/// As of [`sum`].
pub async fn add(
    store: &Arc<dyn ObjectStore>,
    records: &Records,
    tenant: &TenantName,
    range: &UsageRange,
    sums: &mut UsageSums,
) -> Result<Option<String>, Fault> {
    // A name without an id comes before all of its time.
    let newest = range.until.map(|until| format!("{:013}-", countdown(until).saturating_add(1)));
    let (mut after, mut left) = (range.after.clone().or(newest), range.most.max(1));
    loop {
        let wanted = left.min(PAGE);
        let page = records.recent(tenant, after.as_deref(), wanted).await?;
        let is_last = page.len() < wanted;
        let count = page.len();
        let own: Vec<(String, JobId)> =
            page.into_iter().take_while(|(cursor, _)| !is_before(cursor, range.from)).collect();
        let is_last = is_last || own.len() < count;
        left -= own.len();
        after = own.last().map(|(cursor, _)| cursor.clone()).or(after);
        let read = stream::iter(own).map(|(_, id)| used(Arc::clone(store), records.clone(), tenant.clone(), id));
        let mut read = std::pin::pin!(read.buffer_unordered(AT_ONCE));
        while let Some(job) = read.try_next().await? {
            if let Some((record, used)) = job {
                sums.add(tenant, record.created, &record.request.metadata, &used);
            }
        }
        if is_last || left == 0 {
            return Ok(after.filter(|_| !is_last));
        }
    }
}

/// Whether a name of the listing, and so all behind it, is of a time before `from`.
fn is_before(cursor: &str, from: Option<Timestamp>) -> bool {
    let time = cursor.split_once('-').and_then(|(time, _)| time.parse::<i64>().ok());
    from.is_some_and(|from| time.is_some_and(|time| time > countdown(from)))
}

/// A job with what it has used; `None` if it was deleted.
async fn used(
    store: Arc<dyn ObjectStore>,
    records: Records,
    tenant: TenantName,
    id: JobId,
) -> Result<Option<(Arc<JobRecord>, Used)>, Fault> {
    let Some(record) = records.find(&tenant, &id).await? else { return Ok(None) };
    let key = ObjectKey::of_result(&record.request)?;
    let Some(bytes) = store.get(&key, MAX_RESULT_BYTES).await? else { return Ok(Some((record, Used::NOTHING))) };
    let result: JobResult = json::read(&bytes, &Bounds::MESSAGE)
        .map_err(|error| Fault::internal(format!("the object {key} is no result")).because(error))?;
    let used = if result.status == JobStatus::Completed { record.used(&result) } else { Used::NOTHING };
    Ok(Some((record, used)))
}

/// What is asked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct UsageQuery {
    /// The first day (UTC). Absent: 29 days before the last.
    #[schemars(with = "Option<String>", extend("format" = "date"))]
    from: Option<Date>,
    /// The last day (UTC), which is summed too. Absent: today.
    #[schemars(with = "Option<String>", extend("format" = "date"))]
    to: Option<Date>,
    /// What a sum is for: `day`, or `metadata.` and a key. Absent: `day`.
    #[schemars(length(max = 100))]
    by: Option<String>,
    /// The `next` of the answer before.
    #[schemars(length(max = 200))]
    after: Option<String>,
}

/// What jobs have used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageList {
    /// The sums, by their keys.
    pub data: Vec<UsageSum>,
    /// The sum of all of them.
    pub total: UsageTotal,
    /// Where the rest begins, as `after`, whose sums are to be added; null at the end.
    pub next: Option<String>,
}

/// One sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageSum {
    /// The day, or the value in the metadata; empty for jobs that have none.
    pub key: String,
    /// What these jobs have used.
    #[serde(flatten)]
    pub used: Used,
}

/// The sum of all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct UsageTotal {
    /// What the jobs have used.
    #[serde(flatten)]
    pub used: Used,
}

/// `GET /v1/usage`
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    caller: Caller,
    Query(query): Query<UsageQuery>,
) -> Result<Json<UsageList>, Problem> {
    let range = query.range(gateway.clock.now())?;
    let summed = sum(&gateway.ports.results, &gateway.records, &caller.tenant, &range).await;
    let UsagePage { sums, next } = summed.map_err(page_fault)?;
    let sum = |(key, used): (&String, &Used)| UsageSum { key: key.clone(), used: *used };
    let data = sums.sums().iter().map(sum).collect();
    Ok(Json(UsageList { data, total: UsageTotal { used: *sums.total() }, next }))
}

impl UsageQuery {
    fn range(self, now: Timestamp) -> Result<UsageRange, Problem> {
        let by = match self.by.as_deref().unwrap_or("day").parse() {
            Ok(by) if by != UsageBy::Tenant => by,
            _ => return Err(Problem::field("/by", "must be `day` or `metadata.` and a key")),
        };
        let last = self.to.unwrap_or_else(|| Offset::UTC.to_datetime(now).date());
        let first = self.from.unwrap_or_else(|| last.saturating_sub(jiff::Span::new().days(DAYS - 1)));
        if first > last {
            return Err(Problem::field("/from", "must not be after `to`"));
        }
        let beginning = |day: Date| day.to_zoned(TimeZone::UTC).map(|day| day.timestamp());
        let far = |_| Problem::field("/from", "is out of range");
        let from = beginning(first).map_err(far)?;
        // The day after the last one may not exist.
        let until = last.tomorrow().ok().and_then(|day| beginning(day).ok());
        Ok(UsageRange { from: Some(from), until, by, after: self.after, most: MOST })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use echogen_ports::MemoryObjectStore;
    use echogen_protocol::{ContentHash, ImageSource, Job, ResultImage};
    use echogen_tenants::Prices;

    use super::*;

    struct Shop {
        store: Arc<dyn ObjectStore>,
        records: Records,
        tenant: TenantName,
    }

    impl Shop {
        fn open() -> Self {
            let store: Arc<dyn ObjectStore> = Arc::new(MemoryObjectStore::new());
            Self { records: Records::new(Arc::clone(&store)), store, tenant: "acme".parse().unwrap() }
        }

        /// A job of that time; with a result if it has pictures.
        async fn job(&self, id: &str, created: &str, project: Option<&str>, images: u32) {
            let mut job = Job::new(ImageSource("sha256:00".into()), "a mug");
            job.id = JobId(format!("acme.{id}"));
            job.output.destination = Some("acme".into());
            job.metadata.extend(project.map(|project| ("project".to_owned(), project.to_owned())));
            let prices = Prices { picture: 2.0, megapixel: 0.0 };
            let record =
                JobRecord::new(self.tenant.clone(), job.clone(), created.parse().unwrap(), Some("b".into()), prices);
            self.records.create(record.clone()).await.unwrap();
            self.records.enlist(&record).await.unwrap();
            if images > 0 {
                let image = |index: u32| ResultImage {
                    key: format!("acme/{index}.png"),
                    seed: index.into(),
                    width: 1_000,
                    height: 500,
                    sha256: ContentHash::of(b""),
                    safety: None,
                };
                let images = (0..images).map(image).collect();
                let result = JobResult::completed(&job, images, "1", Timestamp::UNIX_EPOCH);
                let json = Bytes::from(serde_json::to_vec(&result).unwrap());
                self.store.put(&ObjectKey::of_result(&job).unwrap(), json).await.unwrap();
            }
        }

        async fn sum(&self, range: &UsageRange) -> UsagePage {
            sum(&self.store, &self.records, &self.tenant, range).await.unwrap()
        }
    }

    fn range(query: UsageQuery) -> UsageRange {
        query.range("2026-11-30T12:00:00Z".parse().unwrap()).unwrap()
    }

    fn sums(page: &UsagePage) -> Vec<(&str, u64, u64)> {
        page.sums.sums().iter().map(|(key, used)| (key.as_str(), used.jobs, used.images)).collect()
    }

    #[tokio::test]
    async fn days_are_whole_and_metadata_has_a_sum_for_each_value() {
        let shop = Shop::open();
        shop.job("a", "2026-11-28T23:59:59.999Z", None, 1).await;
        shop.job("b", "2026-11-29T00:00:00Z", Some("x"), 2).await;
        shop.job("c", "2026-11-29T23:59:59.999Z", Some("y"), 0).await;
        shop.job("d", "2026-11-30T00:00:00Z", Some("x"), 4).await;
        let of = |from: &str, to: &str, by: &str| {
            let (from, to) = (Some(from.parse().unwrap()), Some(to.parse().unwrap()));
            range(UsageQuery { from, to, by: Some(by.into()), after: None })
        };
        assert_eq!(sums(&shop.sum(&of("2026-11-29", "2026-11-29", "day")).await), [("2026-11-29", 2, 2)]);
        let all = shop.sum(&range(UsageQuery::default())).await;
        assert_eq!(sums(&all), [("2026-11-28", 1, 1), ("2026-11-29", 2, 2), ("2026-11-30", 1, 4)]);
        let total = *all.sums.total();
        assert_eq!((total.images, total.megapixels, total.price, all.next), (7, 3.5, 14.0, None));
        let by_project = shop.sum(&of("2026-11-01", "2026-11-30", "metadata.project")).await;
        assert_eq!(sums(&by_project), [("", 1, 1), ("x", 2, 6), ("y", 1, 0)]);
    }

    #[tokio::test]
    async fn a_bound_ends_a_page_and_the_next_one_goes_on() {
        let shop = Shop::open();
        for number in 0..7 {
            shop.job(&format!("n{number}"), &format!("2026-11-{:02}T12:00:00Z", 20 + number), None, 1).await;
        }
        let (mut next, mut seen) = (None, 0);
        for expected in [3, 3, 1] {
            let page = shop.sum(&UsageRange { after: next, most: 3, ..range(UsageQuery::default()) }).await;
            assert_eq!(page.sums.total().jobs, expected);
            (next, seen) = (page.next, seen + page.sums.total().jobs);
        }
        assert_eq!((seen, next), (7, None));
        let wrong = UsageRange { after: Some("../x".into()), ..range(UsageQuery::default()) };
        assert!(sum(&shop.store, &shop.records, &shop.tenant, &wrong).await.is_err());
    }

    #[test]
    fn what_cannot_be_summed_is_said() {
        let now = "2026-11-30T12:00:00Z".parse().unwrap();
        for by in ["tenant", "week", "metadata."] {
            assert!(UsageQuery { by: Some(by.into()), ..UsageQuery::default() }.range(now).is_err(), "{by}");
        }
        let (from, to) = (Some(Date::constant(2026, 2, 2)), Some(Date::constant(2026, 2, 1)));
        assert!(UsageQuery { from, to, ..UsageQuery::default() }.range(now).is_err());
        let last = UsageQuery { from: Some(Date::MAX), to: Some(Date::MAX), ..UsageQuery::default() };
        drop(last.range(now));
    }
}
