//! EchoGen: subject-driven next-scale prediction.
//!
//! [`model::EchoGen`] is the transformer, [`sampling::Sampler`] samples images from it, [`schedule`] defines the
//! scales.

mod block;
mod condition_cache;
mod conditions;
pub mod config;
pub mod guidance;
pub mod model;
mod rotary;
pub mod sampling;
pub mod schedule;
#[cfg(test)]
mod tests;

pub use condition_cache::{CacheUse, FeatureKey, FeatureKeys};
pub use config::EchoGenConfig;
pub(crate) use config::check_sizes;
pub use guidance::{PerScale, SamplingOptions};
pub use model::{EchoGen, SubjectFeatures, is_ignored};
pub use sampling::{Rows, SampleError, SampleRequest, Sampler, Sampling};
pub use schedule::{Schedule, ScheduleError, Schedules};
