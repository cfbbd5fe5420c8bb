//! What a stage builds on: products that are made once, memory that is bounded, and threads that own a model.
//!
//! [`CachedObjects`] is the work store behind the cache. [`SingleFlight`] and [`SharedFlight`] let many who want the same
//! product share one work, in a process and across processes. [`MemoryBudget`] bounds the memory of many tasks.
//! [`InferenceThread`] is where a model lives. Nothing here knows what a stage does, a queue or a task.

mod cached_objects;
mod inference;
mod memory_budget;
mod shared_flight;
mod single_flight;

pub use cached_objects::CachedObjects;
pub(crate) use inference::panic_message;
pub use inference::{Asker, InferenceError, InferenceThread};
pub use memory_budget::{MemoryBudget, Room};
pub use shared_flight::{LeaseConfig, Shared, SharedFlight, SharedWork};
pub use single_flight::SingleFlight;
