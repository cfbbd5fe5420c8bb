//! The worker: what a stage is, and the loop that runs it.
//!
//! A [`Stage`] turns a task into an outcome and knows nothing of queues.
mod clock;
mod results;
mod stage;

pub use clock::Clock;
pub use results::{FailureHandler, ResultWriter};
pub use stage::{Outcome, Stage, StageContext, StageError};
