//! The worker: what a stage is, and the loop that runs it.
//!
//! | folder | what it holds |
//! |---|---|
//! | `queue_loop` | [`Worker`]: consumers, one limit, deadline, retry with backoff, dead letters, crash counting, ack last, drain |
//! | `job` | the life of a job: [`ResultWriter`], [`JobCanceller`], [`JobStatusStore`], the events on the way |
//! | `stage_kit` | what stages are made of: [`Stage`], [`StageContext`], [`Products`], [`CachedObjects`], [`InferenceThread`] |
//! | `dead_letters` | tasks that were parked: which there are, and what operators do about them |
//!
//! A [`Stage`] turns a task into an outcome and knows nothing of queues. Deliberately absent: any adapter, and any model.

mod clock;
pub mod dead_letters;
mod heartbeat;
mod job;
mod queue_loop;
mod sending;
mod stage_kit;

pub use clock::Clock;
pub use heartbeat::Heartbeat;
pub use job::{CancellationStatus, Cancelled, FailureHandler, JobCanceller, JobState, JobStatusStore, ResultWriter};
pub use queue_loop::{LaneWeights, Worker, WorkerConfig};
pub use sending::in_sending_span;
pub use stage_kit::{
    CachedObjects, FOREVER, InferenceError, InferenceThread, IsDeviceFault, Obtained, Origin, Outcome, Product,
    Products, ProductsConfig, Request, RequestHandle, Stage, StageContext, StoredObject, TaskMetadata, TimeLimit,
    catch_panic,
};
