//! The broker on RabbitMQ, by AMQP 0-9-1.
//!
//! | part | what it does |
//! |---|---|
//! | [`Topology`] | exchanges, queues and bindings as data; declared at every connect, printable without one |
//! | `address`, `servers` | which hosts an address names, and connections to them |
//! | `link` | one connection each for publishing and consuming, made again by whoever needs it |
//! | `publisher` | confirms in flight by the thousand, and returned messages given to the right publish |
//! | `consumer` | deliveries, settled on the channel they came by; [`Consuming`] says whether they still come |
//! | `caution` | how a message that the client library cannot read is kept from its neighbours |
//! | `owed` | no wait for a connection that is gone |
//! | `refusals` | why no job waits for a listener's full queue |
//! | `headers` | text headers to and from AMQP's, bounded |
//!
//! A lost connection is never mended behind the caller's back: publishes in flight and consumers end with a transient
//! error, and the next call connects anew. So nobody holds a consumer that silently lost its deliveries. The client
//! library's own recovery is off: it does not publish again what was in flight, nor does it recover a closed channel.
//! Publishing and consuming have connections of their own, because a broker short of memory stops reading from those
//! that publish, and acknowledgements must get through just then.

mod address;
mod broker;
mod caution;
mod config;
mod consumer;
mod declare;
mod error;
mod events;
mod headers;
mod link;
mod liveness;
mod owed;
mod publisher;
mod refusals;
mod servers;
mod topology;

pub use broker::AmqpBroker;
pub use config::AmqpConfig;
pub use liveness::Consuming;
pub use topology::{Argument, Binding, Exchange, ExchangeType, Queue, Topology};
