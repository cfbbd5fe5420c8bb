//! How many jobs of a batch stand where, at a bounded cost.
//!
//! The sums of jobs that have all ended are kept in the cache, so each request goes on where the one before stopped.

use std::time::Duration;

use bytes::Bytes;
use echogen_ports::{Fault, ObjectKey};
use echogen_protocol::{
    JobId,
    json::{self, Bounds},
};
use echogen_tenants::TenantName;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::index::{Description, Entry};
use crate::{Gateway, jobs::Status};

/// What one request reads at most: job states, and sums. A job of which only the store knows how it stands counts as
/// [`STORE_COST`].
pub(super) const BUDGET: u64 = 2_000;

/// A read of the store, in reads of the cache.
const STORE_COST: u64 = 4;

/// Jobs that are looked at at the same time.
const AT_ONCE: usize = 32;

/// The time for which a sum is kept: how long it may be wrong after a job of it was asked for again.
const KEPT: Duration = Duration::from_secs(600);

/// The time after which a job's last known state may have missed its end.
const STALE: SignedDuration = SignedDuration::from_secs(60);

/// Jobs by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Counts {
    /// They wait for the first stage.
    pub queued: u64,
    /// They are on their way.
    pub running: u64,
    /// Their pictures are stored.
    pub completed: u64,
    /// They failed for good.
    pub failed: u64,
    /// They were cancelled.
    pub cancelled: u64,
    /// Their deadline passed.
    pub expired: u64,
    /// Their last attempt failed for a reason that is not theirs.
    pub parked: u64,
    /// They were deleted.
    pub deleted: u64,
}

/// Counts of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) counts: Counts,
    /// Whether they are of all its jobs.
    pub(super) is_whole: bool,
}

impl Counts {
    fn count(&mut self, status: Option<Status>) {
        let count = match status {
            Some(Status::Queued) => &mut self.queued,
            Some(Status::Running) => &mut self.running,
            Some(Status::Completed) => &mut self.completed,
            Some(Status::Failed) => &mut self.failed,
            Some(Status::Cancelled) => &mut self.cancelled,
            Some(Status::Expired) => &mut self.expired,
            Some(Status::Parked) => &mut self.parked,
            None => &mut self.deleted,
        };
        *count += 1;
    }

    fn add(&mut self, other: &Self) {
        let Self { queued, running, completed, failed, cancelled, expired, parked, deleted } = other;
        self.queued += queued;
        self.running += running;
        self.completed += completed;
        self.failed += failed;
        self.cancelled += cancelled;
        self.expired += expired;
        self.parked += parked;
        self.deleted += deleted;
    }

    /// All jobs that were counted.
    pub fn sum(&self) -> u64 {
        let Self { queued, running, completed, failed, cancelled, expired, parked, deleted } = self;
        queued + running + completed + failed + cancelled + expired + parked + deleted
    }

    /// Whether nothing follows by itself.
    pub fn have_ended(&self) -> bool {
        self.queued == 0 && self.running == 0
    }
}

impl Gateway {
    /// Counts the jobs of a batch from the first on, as far as the budget goes.
    pub(super) async fn count_jobs(
        &self,
        tenant: &TenantName,
        batch: &Description,
        budget: &mut u64,
    ) -> Result<Counted, Fault> {
        // Of a batch that was sent again, other sums are looked for.
        let key = format!("batch-counts/{tenant}/{}/{}", batch.id, batch.jobs);
        *budget = budget.saturating_sub(1);
        if let Some(counts) = self.kept_counts(&key).await {
            return Ok(Counted { counts, is_whole: true });
        }
        let (mut counts, mut is_whole) = (Counts::default(), true);
        for chunk in batch.chunks() {
            match self.count_chunk(tenant, batch, chunk, &key, budget).await? {
                Some(counted) => counts.add(&counted),
                None => {
                    is_whole = false;
                    break;
                }
            }
        }
        if is_whole && batch.complete && counts.have_ended() {
            self.keep_counts(&key, &counts).await;
        }
        Ok(Counted { counts, is_whole })
    }

    /// Counts the jobs of an object of the index; `None` if the budget does not reach.
    async fn count_chunk(
        &self,
        tenant: &TenantName,
        batch: &Description,
        chunk: u64,
        key: &str,
        budget: &mut u64,
    ) -> Result<Option<Counts>, Fault> {
        let key = format!("{key}/{chunk}");
        if *budget == 0 {
            return Ok(None);
        }
        *budget -= 1;
        if let Some(counts) = self.kept_counts(&key).await {
            return Ok(Some(counts));
        }
        let entries = self.batches.entries(tenant, &batch.id, chunk).await?;
        if (entries.len() as u64) > *budget {
            return Ok(None);
        }
        let jobs = entries.into_iter().filter_map(|entry| match entry {
            Entry::Job { job, destination, .. } => Some((job, destination)),
            Entry::Error { .. } => None,
        });
        let (gateway, tenant) = (self.clone(), tenant.clone());
        let standing = stream::iter(jobs).map(move |(job, destination)| {
            let (gateway, tenant) = (gateway.clone(), tenant.clone());
            async move { gateway.standing(&tenant, &job, destination.as_deref()).await }
        });
        let mut standing = std::pin::pin!(standing.buffer_unordered(AT_ONCE));
        let mut counts = Counts::default();
        while let Some((status, cost)) = standing.try_next().await? {
            counts.count(status);
            *budget = budget.saturating_sub(cost);
        }
        if batch.complete && counts.have_ended() {
            self.keep_counts(&key, &counts).await;
        }
        Ok(Some(counts))
    }

    /// Where a job stands, and what it cost to know; `None` if it was deleted.
    async fn standing(
        &self,
        tenant: &TenantName,
        id: &JobId,
        destination: Option<&str>,
    ) -> Result<(Option<Status>, u64), Fault> {
        let state = self.state(id).await;
        let known = state.as_ref().map(|state| Status::from(state.state));
        let is_fresh = state.is_some_and(|state| self.clock.now().duration_since(state.updated) < STALE);
        if known.is_some_and(|status| status.is_end() || is_fresh) {
            return Ok((known, 1));
        }
        let key = ObjectKey::new(id.result_key(destination))?;
        let ended = self.ports.writer.find_at(&key).await?.map(|result| Status::from(result.status));
        let status = match ended.or(known) {
            Some(status) => Some(status),
            None => self.records.find(tenant, id).await?.map(|_| Status::Queued),
        };
        Ok((status, 1 + STORE_COST))
    }

    /// Returns a sum that was kept. A cache that is away has none.
    async fn kept_counts(&self, key: &str) -> Option<Counts> {
        let found = self.ports.cache.get(key).await;
        let found = found.inspect_err(|error| tracing::debug!(%error, "counts not read")).ok()??;
        json::read(&found, &Bounds::MESSAGE).ok()
    }

    async fn keep_counts(&self, key: &str, counts: &Counts) {
        let json = serde_json::to_vec(counts).map(Bytes::from).unwrap_or_default();
        if let Err(error) = self.ports.cache.put(key, json, KEPT).await {
            tracing::debug!(%error, "counts not kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_in_the_sum_and_unfinished_ones_are_not_the_end() {
        let ends = [Status::Completed, Status::Failed, Status::Cancelled, Status::Expired, Status::Parked];
        let mut counts = Counts::default();
        ends.into_iter().map(Some).chain([None]).for_each(|status| counts.count(status));
        assert!(counts.sum() == 6 && counts.have_ended());
        for unfinished in [Status::Queued, Status::Running] {
            let mut more = Counts::default();
            more.count(Some(unfinished));
            assert!(!more.have_ended());
            more.add(&counts);
            assert!(more.sum() == 7 && !more.have_ended());
        }
    }
}
