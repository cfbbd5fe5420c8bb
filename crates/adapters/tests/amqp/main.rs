//! The AMQP adapter on a real RabbitMQ: the broker's contract, and what only a real server can do.

mod addresses;
mod client;
mod contract;
mod failures;
mod limits;
mod messages;
mod rights;
