//! What a stage may ask of the world: a broker, a cache, an object store, an image fetcher, a sender of
//! callbacks.
//!
//! Only traits, their errors, the in-memory twins ([`memory`]), what both sides of a port share ([`MemoryBudget`],
//! [`spawn_blocking`]) and (feature `contract-tests`) the suites that every adapter passes. Deliberately absent: any
//! client library. A stage that wants Redis cannot reach it from here.
#![warn(missing_docs)]

mod broker;
mod cache;
mod callback_sender;
#[cfg(any(test, feature = "contract-tests"))]
pub mod contract;
mod error;
mod image_fetcher;
pub mod memory;
mod memory_budget;
mod object_store;
mod seconds;
mod secret;
mod spawn_blocking;

pub use broker::{Broker, Consumer, DEAD_LETTER_REASON, Delivery, Event, EventStream, Message, Settle};
pub use cache::{Cache, FencingToken};
pub use callback_sender::{CallbackReply, CallbackSender};
pub use echogen_protocol::{KeyError, QueueName};
pub use error::{PortError, error_story};
pub use image_fetcher::ImageFetcher;
pub use memory::{MemoryBroker, MemoryCache, MemoryCallbackSender, MemoryImageFetcher, MemoryObjectStore};
pub use memory_budget::{MemoryBudget, MemoryPermit};
pub use object_store::{ObjectKey, ObjectStore, object_too_large};
pub use seconds::{MAX_SECONDS, SecondsError, seconds, seconds_or_zero};
pub use secret::Secret;
pub use spawn_blocking::spawn_blocking;
