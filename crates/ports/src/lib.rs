//! What a stage may ask of the world: a broker, a cache, an object store, an image fetcher.
//!
//! Only traits, their errors, the in-memory twins and (feature `contract-tests`) the suites that every adapter
//! passes. Deliberately absent: any client library. A stage that wants Redis cannot reach it from here.

mod broker;
mod cache;
mod error;
mod image_fetcher;
mod object_store;

pub use broker::{Broker, Consumer, Delivery, Event, EventStream, Message, QueueName, Settle};
pub use cache::Cache;
pub use error::PortError;
pub use image_fetcher::ImageFetcher;
pub use object_store::{ObjectKey, ObjectStore};
