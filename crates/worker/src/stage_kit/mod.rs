//! What a stage builds on: products that are made once, memory that is bounded, and threads that own a model.
//!
//! [`CachedObjects`] is the work store behind the cache. [`SingleFlight`] and [`DistributedSingleFlight`] let many who want the same
//! product share one work, in a process and across processes. [`MemoryBudget`] bounds the memory of many tasks.
//! [`InferenceThread`] is where a model lives. Nothing here knows what a stage does, a queue or a task.

mod cached_objects;
mod distributed_single_flight;
mod inference_thread;
mod memory_budget;
mod single_flight;

pub use cached_objects::CachedObjects;
pub use distributed_single_flight::{DistributedSingleFlight, LeaseConfig, Shared, SharedWork};
pub(crate) use inference_thread::panic_message;
pub use inference_thread::{InferenceError, InferenceThread, RequestHandle};
pub use memory_budget::{MemoryBudget, MemoryPermit};
pub use single_flight::SingleFlight;
