//! In-memory implementations of the ports, for a single process and for tests.
//!
//! They fulfil the contract of their trait and pass the contract suites, but are not durable. Time is tokio's, so a
//! test can pause it.

mod broker;
mod cache;
mod callback_sender;
mod content_gate;
mod image_fetcher;
mod leases;
mod object_store;
mod quota;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use broker::MemoryBroker;
pub use cache::MemoryCache;
pub use callback_sender::{CallbackAnswer, MemoryCallbackSender};
pub use content_gate::MemoryContentGate;
pub use image_fetcher::MemoryImageFetcher;
pub use object_store::MemoryObjectStore;
pub use quota::MemoryQuota;

/// Locks even after a panic elsewhere: every change under these locks is complete before anything can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
