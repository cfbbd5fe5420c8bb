//! The worker: what a stage is, and the loop that runs it.
//!
//! A [`Stage`] turns a task into an outcome and knows nothing of queues. A [`Worker`] runs it on one queue: prefetch,
//! deadline, retry with backoff, dead letters, ack last, graceful end. Beside them: [`InferenceThread`], where models
//! live; [`SingleFlight`] and [`SharedFlight`], which let many who want the same product share one work, in a process
//! and across processes; [`CachedObjects`], the work store behind the cache; [`ResultWriter`],
//! by which a job ends. Deliberately absent: any adapter, and any model.

mod cached_objects;
mod clock;
mod config;
mod inference;
mod results;
mod shared_flight;
mod single_flight;
mod stage;
mod worker;

pub use cached_objects::CachedObjects;
pub use clock::Clock;
pub use config::{Backoff, WorkerConfig};
pub use inference::{Asker, InferenceError, InferenceThread};
pub use results::{FailureHandler, ResultWriter};
pub use shared_flight::{LeaseConfig, Shared, SharedFlight, SharedWork};
pub use single_flight::SingleFlight;
pub use stage::{Outcome, Stage, StageContext, StageError};
pub use worker::Worker;
