//! The worker: what a stage is, and the loop that runs it.
//!
//! A [`Stage`] turns a task into an outcome and knows nothing of queues. A [`Worker`] runs it on one queue, or on
//! several by weight: prefetch, deadline, retry with backoff, dead letters, quarantine of what may kill its worker,
//! cancellation, ack last, graceful end. Beside them: [`InferenceThread`], where models live; [`SingleFlight`] and
//! [`DistributedSingleFlight`], which let many who want the same product share one work, in a process and across processes;
//! [`CachedObjects`], the work store behind the cache; [`MemoryBudget`], which bounds the memory of many tasks;
//! [`ResultWriter`], by which a job ends; [`JobStatusBoard`], where one can see how far it is; [`JobCanceller`], which
//! takes it back. Deliberately absent: any adapter, and any model.

mod announcer;
mod cancellation;
mod canceller;
mod clock;
mod conclusion;
mod config;
mod courier;
mod handler;
mod lanes;
mod quarantine;
mod results;
mod stage;
mod stage_kit;
mod status_board;
mod trace;
mod worker;

pub use canceller::{Cancelled, JobCanceller};
pub use clock::Clock;
pub use config::{Backoff, WorkerConfig};
pub use lanes::LaneWeights;
pub use results::{FailureHandler, ResultWriter, Withdrawal};
pub use stage::{Outcome, Stage, StageContext, StageError, TaskFacts, spawn_blocking};
pub use stage_kit::{
    CachedObjects, DistributedSingleFlight, InferenceError, InferenceThread, LeaseConfig, MemoryBudget, MemoryPermit,
    RequestHandle, Shared, SharedWork, SingleFlight,
};
pub use status_board::{JobState, JobStatusBoard};
pub use worker::Worker;
