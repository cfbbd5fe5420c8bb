//! What the tests of several crates share: the contracts of the ports ([`contract`]), wrappers that make faults on purpose,
//! builders, and waiting on conditions.
//!
//! A dev-dependency only. Each wrapper is itself the port it wraps, so a test puts it where the port goes.

mod browser;
mod conditions;
pub mod contract;
mod counting;
mod faults;
mod jobs;
mod proxy;
mod rabbitmq;
#[cfg(feature = "servers")]
mod servers;

pub use browser::{Browser, BrowserError, ConsoleEntry};
pub use conditions::eventually;
pub use counting::Counting;
pub use faults::{CutConnections, Duplicating, FailFirst, IgnoresPrefetch, LostAcks, ReceivesAhead};
pub use jobs::{job, parameters};
pub use proxy::CutProxy;
pub use rabbitmq::{RabbitMq, RabbitMqCluster, ServerError};
#[cfg(feature = "servers")]
pub use servers::{Redis, S3Server, TestedS3};
