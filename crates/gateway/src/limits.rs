//! A tenant's limits: requests a second, pictures a day, jobs held, streams.
//!
//! A surplus of jobs is held in the tenant's own queue, not refused, until the tenant's bound: lanes and partitions keep it from
//! delaying others. While Redis is away each gateway keeps limits of its own, and that is counted.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Json, extract::State};
use echogen_ports::Quota;
use echogen_protocol::{Job, JobId};
use echogen_telemetry::metrics;
use echogen_tenants::TenantName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

use crate::{
    Gateway,
    authentication::Caller,
    problem::{Kind, Problem},
};

/// The time after which a job that was never seen to end is not held any more.
const HELD_FOR: Duration = Duration::from_secs(7 * 24 * 3_600);

/// The time for which a day's pictures are counted.
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// What a tenant may do, and how much of it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LimitsView {
    /// Requests.
    pub requests: RequestLimit,
    /// Pictures of the day (UTC).
    pub pictures_a_day: Used,
    /// Jobs that have not ended.
    pub jobs_held: Used,
    /// Streams of events at once, at this gateway.
    pub streams: Used,
    /// Previews that a job may ask for.
    pub previews: u32,
}

/// How fast requests may come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RequestLimit {
    /// In the long run.
    pub per_second: f64,
    /// At once.
    pub burst: u32,
}

/// A limit, and what is used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Used {
    /// The limit.
    pub limit: u64,
    /// What is used; absent while that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
}

/// `GET /v1/limits`
pub(crate) async fn show(State(gateway): State<Gateway>, caller: Caller) -> Json<LimitsView> {
    let limits = &caller.rules().limits;
    let quota = &gateway.ports.quota;
    let pictures = gateway.pictures_today(&caller.tenant).await;
    let held = quota.held(&held_key(caller.tenant.as_str())).await.ok();
    Json(LimitsView {
        requests: RequestLimit { per_second: limits.requests_per_second, burst: limits.burst },
        pictures_a_day: Used { limit: limits.pictures_a_day, used: pictures },
        jobs_held: Used { limit: limits.jobs_held, used: held },
        streams: Used { limit: limits.streams.into(), used: Some(gateway.streams.count(&caller.tenant).into()) },
        previews: limits.previews,
    })
}

/// What a request was charged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charged {
    pub(crate) limit: u32,
    pub(crate) remaining: u32,
    pub(crate) reset: Duration,
}

/// Charges a request to its tenant.
pub(crate) async fn charge(quota: &dyn Quota, caller: &Caller) -> Result<Charged, Problem> {
    let limits = &caller.rules().limits;
    let charge = quota.charge(&format!("requests/{}", caller.tenant), limits.rate(), 1).await?;
    if charge.allowed {
        return Ok(Charged { limit: limits.burst, remaining: charge.remaining, reset: charge.reset_after });
    }
    let detail = format!("more than {} requests a second", limits.requests_per_second);
    Err(Problem::new(Kind::RateLimited, detail).retry_in(charge.retry_after))
}

/// The key under which the jobs are counted that a tenant has not seen the end of.
pub(crate) fn held_key(tenant: &str) -> String {
    format!("held/{tenant}")
}

/// A job that is counted as held; given back unless it is kept.
pub(crate) struct Held {
    quota: Arc<dyn Quota>,
    tracker: TaskTracker,
    key: String,
    id: JobId,
    kept: bool,
}

impl Held {
    /// The job is on its way: it is released at its end.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.kept {
            release(&self.tracker, &self.quota, std::mem::take(&mut self.key), self.id.to_string());
        }
    }
}

/// Releases a held job in the background. One that is lost is released after a week.
pub(crate) fn release(tracker: &TaskTracker, quota: &Arc<dyn Quota>, key: String, id: String) {
    let quota = Arc::clone(quota);
    tracker.spawn(async move {
        if let Err(error) = quota.release(&key, &id).await {
            tracing::debug!(%error, "a job stays counted as held");
        }
    });
}

impl Gateway {
    /// Counts a job and its pictures against the tenant's bounds.
    pub(crate) async fn hold(&self, caller: &Caller, job: &Job) -> Result<Held, Problem> {
        let (limits, quota) = (&caller.rules().limits, &self.ports.quota);
        if job.previews > limits.previews {
            return Err(Problem::field("/previews", format!("must be at most {}", limits.previews)));
        }
        let key = held_key(caller.tenant.as_str());
        let held = quota.hold(&key, job.id.as_str(), limits.jobs_held, HELD_FOR).await?;
        if !held.allowed {
            let detail = format!("{} jobs have not ended, as many as you may have", held.held);
            return Err(Problem::new(Kind::QuotaExceeded, detail).retry_in(Duration::from_secs(5)));
        }
        // Given back if what follows refuses the job.
        let (tracker, id) = (self.tracker.clone(), job.id.clone());
        let held = Held { quota: Arc::clone(quota), tracker, key, id, kept: false };
        let pictures = job.seeds.values().len() as u64;
        let counted = quota.count(&self.today_key(&caller.tenant), pictures, limits.pictures_a_day, DAY).await?;
        if !counted.allowed {
            let detail = format!("{} of {} pictures of the day (UTC) are used", counted.used, limits.pictures_a_day);
            return Err(Problem::new(Kind::QuotaExceeded, detail).retry_in(self.until_midnight()));
        }
        Ok(held)
    }

    /// The pictures that a tenant has asked for on this day; `None` while that cannot be read.
    pub(crate) async fn pictures_today(&self, tenant: &TenantName) -> Option<u64> {
        let counted = self.ports.quota.count(&self.today_key(tenant), 0, u64::MAX, DAY).await;
        counted.map(|counted| counted.used).ok()
    }

    /// Counts a job no more that has ended.
    pub(crate) fn release(&self, tenant: &str, id: &JobId) {
        release(&self.tracker, &self.ports.quota, held_key(tenant), id.to_string());
    }

    fn today_key(&self, tenant: &TenantName) -> String {
        format!("pictures/{tenant}/{}", self.clock.now().strftime("%Y-%m-%d"))
    }

    fn until_midnight(&self) -> Duration {
        let seconds = u64::try_from(self.clock.now().as_second().rem_euclid(86_400)).unwrap_or(0);
        Duration::from_secs(86_400 - seconds)
    }
}

/// Counts streams by tenant, in this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<TenantName, u32>>>);

/// A stream's place among those of its tenant.
pub(crate) struct StreamPlace {
    streams: Streams,
    tenant: TenantName,
}

impl Streams {
    /// Takes a place for a stream.
    pub(crate) fn enter(&self, caller: &Caller) -> Result<StreamPlace, Problem> {
        let (tenant, most) = (&caller.tenant, caller.rules().limits.streams);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(tenant.clone()).or_default();
        if *count >= most {
            let detail = format!("{count} streams are open, as many as you may have here; close one");
            return Err(Problem::new(Kind::QuotaExceeded, detail).retry_in(Duration::from_secs(5)));
        }
        *count += 1;
        metrics().http_stream(true);
        Ok(StreamPlace { streams: self.clone(), tenant: tenant.clone() })
    }

    fn count(&self, tenant: &TenantName) -> u32 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(tenant).copied().unwrap_or_default()
    }
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        metrics().http_stream(false);
        let mut counts = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}
