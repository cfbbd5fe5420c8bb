//! The worker: what a stage is, and the loop that runs it.
//!
//! A [`Stage`] turns a task into an outcome and knows nothing of queues. A [`Worker`] runs it on the stage's queues, by
//! weight where there are several: prefetch, deadline, retry with backoff, dead letters, quarantine of what may kill its
//! worker, cancellation, ack last, graceful end. Beside them the kit for stages: [`InferenceThread`], where models live;
//! [`Products`], which lets many tasks that want the same product share one making of it, in a process and across
//! processes; [`CachedObjects`], the work store behind the cache. And the life of a job: [`ResultWriter`], by which it
//! ends; [`JobStatusBoard`], where one can see how far it is; [`JobCanceller`], which takes it back. Deliberately absent:
//! any adapter, and any model.

mod announcer;
mod cancellation;
mod canceller;
mod clock;
mod completion;
mod config;
mod courier;
mod disposition;
mod handler;
mod lanes;
mod quarantine;
mod results;
mod stage;
mod stage_kit;
mod status_board;
mod tasks_at_work;
mod trace;
mod waits;
mod worker;

pub use canceller::{Cancelled, JobCanceller};
pub use clock::Clock;
pub use config::WorkerConfig;
pub use lanes::LaneWeights;
pub use results::{FailureHandler, ResultWriter, Withdrawal};
pub use stage::{Outcome, Stage, StageContext, TaskFacts};
pub use stage_kit::{
    CachedObjects, InferenceError, InferenceThread, IsDeviceFault, Obtained, Origin, Product, Products, ProductsConfig,
    Request, RequestHandle, StoredObject, catch_panic,
};
pub use status_board::{JobState, JobStatusBoard};
pub use worker::Worker;
