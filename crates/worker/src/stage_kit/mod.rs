//! What stages build on: products that are made once, and threads that own a model.
//!
//! [`CachedObjects`] is the work store behind the cache, and has segmentations in the cache only. [`Products`] lets many tasks that want the same product share
//! one making of it, in a process (`SingleFlight`) and across processes (`DistributedSingleFlight`, by a lease in the
//! cache). [`InferenceThread`] is where a model lives. Nothing here knows what a stage does, a queue or a task.
//!
//! A stage that makes something once reads like this:
//!
//! ```text
//! let make = async || ...;                                     // from the task to bytes
//! let made = self.products.get_or_make(context, &key, is_new, make).await?;
//! ```

mod cached_objects;
mod distributed_single_flight;
mod inference_thread;
mod products;
mod products_config;
mod segmentations;
mod single_flight;
mod stage;
pub(crate) mod time_limit;

pub use cached_objects::CachedObjects;
pub(crate) use inference_thread::panic_message;
pub use inference_thread::{InferenceError, InferenceThread, IsDeviceFault, Request, RequestHandle, catch_panic};
pub use products::{Obtained, Origin, Product, Products, StoredObject};
pub use products_config::ProductsConfig;
pub use stage::{Outcome, Stage, StageContext, TaskMetadata};
pub use time_limit::{FOREVER, TimeLimit};
