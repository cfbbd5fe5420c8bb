//! The life of a job beyond its tasks: how it ends, how it is cancelled, and what others can see of it.
//!
//! [`ResultWriter`] writes `result.json`, the commit mark, and hands the end of the job to the notifier by [`notices`]. [`JobCanceller`] ends a
//! job from outside; [`cancellations`] is what each worker has heard of that. [`JobStatusStore`] shows where jobs stand, and
//! [`event_publisher`] publishes what happens on the way: both best effort, by [`background_sender`], so that no task waits.
//! [`duration`] records how long a job took.

pub(crate) mod background_sender;
pub(crate) mod cancellations;
mod canceller;
pub(crate) mod duration;
pub(crate) mod event_publisher;
pub(crate) mod notices;
mod results;
mod status_store;

pub use canceller::{Cancelled, JobCanceller};
pub use results::{CancellationStatus, FailureHandler, ResultWriter};
pub use status_store::{JobState, JobStatusStore};
