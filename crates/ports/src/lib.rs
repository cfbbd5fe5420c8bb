//! The interfaces to the outside: a broker, a cache, an object store, limits, an image fetcher, a sender of callbacks,
//! a content gate.
//!
//! Only traits, the one error of all ([`Fault`]), the waits between attempts ([`Backoff`]), the in-memory
//! implementations ([`memory`]), and what both sides of a port share ([`MemoryBudget`], [`spawn_blocking`]). The suites
//! that every adapter passes are in `echogen-testkit`. Deliberately absent: any client library. So a stage cannot use
//! Redis itself.
#![warn(missing_docs)]

mod backoff;
mod broker;
mod browse;
mod cache;
mod callback_secret;
mod callback_sender;
mod content_gate;
mod fault;
mod image_fetcher;
pub mod memory;
mod memory_budget;
mod object_store;
mod quota;
mod seconds;
mod secret;
mod spawn_blocking;

pub use backoff::{Backoff, random_number};
pub use broker::{
    Broker, Consumer, DEAD_LETTER_QUEUE, DEAD_LETTER_REASON, DEAD_LETTER_TIME, Delivery, Event, EventStream, Message,
    Recipient, Settle,
};
pub use browse::{Browse, Browsed, Browser};
pub use cache::{Cache, FencingToken};
pub use callback_secret::callback_secrets_of;
pub use callback_sender::{CallbackReply, CallbackSender};
pub use content_gate::{ContentGate, GateContent, GatePlace, GateSubject, Verdict, WhenUnreachable};
pub use echogen_protocol::{KeyError, QueueName};
pub use fault::{Fault, FaultKind};
pub use image_fetcher::ImageFetcher;
pub use memory::{
    MemoryBroker, MemoryCache, MemoryCallbackSender, MemoryContentGate, MemoryImageFetcher, MemoryObjectStore,
    MemoryQuota,
};
pub use memory_budget::{MemoryBudget, MemoryPermit};
pub use object_store::{ObjectKey, ObjectStore, PresignedPut, check_list_prefix, object_too_large};
pub use quota::{Charge, Counted, Held, Quota, Rate};
pub use seconds::{MAX_SECONDS, SecondsError, clamped_seconds, seconds, seconds_or_zero};
pub use secret::Secret;
pub use spawn_blocking::spawn_blocking;
