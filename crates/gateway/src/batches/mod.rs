//! Batches: many jobs in one request, one a line, and their results, one a line, in the same order.
//!
//! | key in the result store | contains |
//! |---|---|
//! | `echogen-gateway/batches/TENANT/ID.json` | the batch: when it came, how many lines and jobs it has |
//! | `echogen-gateway/recent-batches/TENANT/TIME-ID` | nothing but its name, as for [jobs](crate::jobs) |
//! | `echogen-gateway/batch-lines/TENANT/ID/FIRST.json` | what became of up to 500 lines: a job, or an error |
//!
//! A batch is nothing to the stages: its jobs are as all others. Sent again with the same `Idempotency-Key`, it has the same id,
//! so its jobs have the same ids too, and those that exist are found.

mod cancel;
mod counts;
mod index;
mod lines;
mod patience;
mod results;
mod send;
mod show;
#[cfg(test)]
mod wire_tests;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::counts::Counts;
pub(crate) use self::{
    cancel::{Cancelling, cancel},
    index::Batches,
    results::results,
    send::{MEDIA_TYPES, send},
    show::{BatchQuery, list, show},
};

use self::{counts::Counted, index::Description};

/// A batch as the API shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchView {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub status: BatchStatus,
    /// When it came.
    pub created: Timestamp,
    /// Lines that were read, but for empty ones at the end.
    pub lines: u64,
    /// Lines that are jobs now.
    pub jobs: u64,
    /// Lines that are none.
    pub refused: u64,
    /// The first thousand of these, in the answer to the request that sent them; the results have all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<LineError>,
    /// The jobs by where they stand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// How many of the jobs are in `counts`; one request counts a few thousand at most, the next goes on from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<u64>,
    /// Where to go on.
    pub links: BatchLinks,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BatchStatus {
    /// Its lines are being read, or the request broke off; it goes on if it is sent again with the same `Idempotency-Key`.
    Receiving,
    /// All its lines were read.
    Running,
    /// All its jobs have ended.
    Ended,
}

/// A line that is no job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LineError {
    /// The line, 1 for the first.
    pub line: u64,
    /// What is wrong with it.
    pub detail: String,
}

/// Where to go on from a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BatchLinks {
    /// The batch itself.
    #[serde(rename = "self")]
    pub this: String,
    /// Its results.
    pub results: String,
    /// Where it is cancelled.
    pub cancel: String,
    /// Its jobs.
    pub jobs: String,
}

/// A page of batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BatchList {
    /// The batches, the newest first.
    pub data: Vec<BatchView>,
    /// Where the next page begins, as `after`; null on the last one.
    pub next: Option<String>,
}

impl BatchView {
    fn of(batch: &Description) -> Self {
        let path = path_of(&batch.id);
        Self {
            id: batch.id.clone(),
            status: if batch.complete { BatchStatus::Running } else { BatchStatus::Receiving },
            created: batch.created,
            lines: batch.lines,
            jobs: batch.jobs,
            refused: batch.refused,
            errors: Vec::new(),
            counts: None,
            counted: None,
            links: BatchLinks {
                results: format!("{path}/results"),
                cancel: format!("{path}/cancel"),
                jobs: format!("/v1/jobs?batch={}", batch.id),
                this: path,
            },
        }
    }

    fn with_counts(mut self, counted: &Counted) -> Self {
        if self.status == BatchStatus::Running && counted.is_whole && counted.counts.have_ended() {
            self.status = BatchStatus::Ended;
        }
        self.counts = Some(counted.counts);
        self.counted = Some(counted.counts.sum());
        self
    }
}

fn path_of(id: &str) -> String {
    format!("/v1/batches/{id}")
}
