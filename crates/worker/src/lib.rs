//! The worker: what a stage is, and the loop that runs it.
//!
//! A [`Stage`] turns a task into an outcome and knows nothing of queues. A [`Worker`] runs it on one queue: prefetch,
//! deadline, retry with backoff, dead letters, ack last, graceful end. Beside them: [`InferenceThread`], where models
//! live; [`SingleFlight`], which lets many who want the same product share one work; [`ResultWriter`], by which a job
//! ends. Deliberately absent: any adapter, and any model.

mod clock;
mod config;
mod inference;
mod results;
mod single_flight;
mod stage;
mod worker;

pub use clock::Clock;
pub use config::{Backoff, WorkerConfig};
pub use inference::{Asker, InferenceError, InferenceThread};
pub use results::{FailureHandler, ResultWriter};
pub use single_flight::SingleFlight;
pub use stage::{Outcome, Stage, StageContext, StageError};
pub use worker::Worker;
