//! The worker: what a stage is, and the loop that runs it.
//!
//! A [`Stage`] turns a task into an outcome and knows nothing of queues. A [`Worker`] runs it on the stage's queues, by
//! weight where there are several: prefetch, deadline, retry with backoff, dead letters, quarantine of what may kill its worker,
//! cancellation, ack last, graceful end. Beside them: [`InferenceThread`], where models live; [`SingleFlight`] and
//! [`SharedFlight`], which let many who want the same product share one work, in a process and across processes;
//! [`CachedObjects`], the work store behind the cache; [`MemoryBudget`], which bounds the memory of many tasks;
//! [`ResultWriter`], by which a job ends; [`JobStatusBoard`], where one can see how far it is; [`JobCanceller`], which
//! takes it back. Deliberately absent: any adapter, and any model.

mod announcer;
mod cached_objects;
mod cancellation;
mod canceller;
mod clock;
mod completion;
mod config;
mod courier;
mod disposition;
mod handler;
mod inference;
mod lanes;
mod memory_budget;
mod quarantine;
mod results;
mod shared_flight;
mod single_flight;
mod stage;
mod status_board;
mod trace;
mod waits;
mod worker;

pub use cached_objects::CachedObjects;
pub use canceller::{Cancelled, JobCanceller};
pub use clock::Clock;
pub use config::{Backoff, WorkerConfig};
pub use inference::{Asker, InferenceError, InferenceThread};
pub use lanes::LaneWeights;
pub use memory_budget::{MemoryBudget, Room};
pub use results::{FailureHandler, ResultWriter, Withdrawal};
pub use shared_flight::{LeaseConfig, Shared, SharedFlight, SharedWork};
pub use single_flight::SingleFlight;
pub use stage::{Outcome, Stage, StageContext, StageError, TaskFacts, off_thread};
pub use status_board::{JobState, JobStatusBoard};
pub use worker::Worker;
