//! The broker on RabbitMQ, by AMQP 0-9-1.
//!
//! | part | what it does |
//! |---|---|
//! | [`Topology`] | exchanges, queues and bindings as data; declared at every connect, printable without one |
//! | `address`, `servers` | which hosts an address names, and connections to them |
//! | `session` | one session each for publishing and consuming, opened again on demand after a loss |
//! | `publisher` | thousands of confirms in flight, and returned messages matched to their publish |
//! | `consumer` | deliveries, settled on the channel that delivered them |
//! | `liveness` | which queues are consumed: [`QueueConsumption`] |
//! | `rights` | tries the rights that a role needs, and names those that are missing |
//! | `poison_isolation` | isolates queues from a message that the client library cannot parse |
//! | `await_or_closed` | ends the wait for an answer when the connection has closed |
//! | `rejected_event_backoff` | why no job waits for a listener's full queue |
//! | `headers` | text headers to and from AMQP's, bounded |
//!
//! A lost connection is never replaced without the caller's knowledge: publishes in flight and consumers end with a
//! transient error, and the next call connects again. So no caller holds a consumer that has silently lost its deliveries.
//! lapin's own recovery is off: it neither publishes again what was in flight nor recovers a closed channel. Publishing and
//! consuming have separate connections, because a broker that is short of memory stops reading from connections that
//! publish, and acknowledgements must still reach it then.

mod address;
mod await_or_closed;
mod broker;
mod browser;
mod config;
mod consumer;
mod declare;
mod error;
mod event_route;
mod events;
mod headers;
mod liveness;
mod poison_isolation;
mod publisher;
mod rights;
mod servers;
mod session;
mod topology;

pub use broker::AmqpBroker;
pub use config::AmqpConfig;
pub use liveness::QueueConsumption;
pub use topology::{Argument, Binding, Exchange, ExchangeType, Queue, Topology};
