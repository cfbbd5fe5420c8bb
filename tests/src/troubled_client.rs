//! Queues of clients that are in trouble: full, or without a leader.

use lapin::{
    Channel, Connection, ConnectionProperties,
    options::{QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use crate::system::Servers;

/// What is wrong with a client's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It rejects every message.
    Full,
    /// It is a quorum queue without a leader: it neither confirms nor rejects.
    Leaderless,
}

/// A client's connection; its queues are durable.
#[derive(Debug)]
pub struct TroubledClient<'a> {
    servers: &'a Servers,
    /// Keeps the channel open.
    _connection: Connection,
    channel: Channel,
}

impl<'a> TroubledClient<'a> {
    /// Connects as a client.
    pub async fn connect(servers: &'a Servers) -> anyhow::Result<Self> {
        let url = servers.rabbitmq.amqp_url();
        let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        Ok(Self { servers, _connection: connection, channel })
    }

    /// Declares a queue, which is bound to the events if `exchange` is given.
    pub async fn declare(&self, name: &str, trouble: Trouble, exchange: Option<&str>) -> anyhow::Result<()> {
        let mut arguments = FieldTable::default();
        match trouble {
            Trouble::Full => {
                arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
                arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
            }
            Trouble::Leaderless => {
                arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
            }
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await?;
        if let Some(exchange) = exchange {
            let options = QueueBindOptions::default();
            self.channel.queue_bind(name.into(), exchange.into(), "#".into(), options, FieldTable::default()).await?;
        }
        Ok(())
    }

    /// Takes the leader of a quorum queue away.
    pub async fn stop_leader(&self, name: &str) -> anyhow::Result<()> {
        let server = format!("{{list_to_atom(\"%2F_{name}\"), node()}}");
        self.servers.rabbitmq.eval(&format!("ra:stop_server(quorum_queues, {server}).")).await?;
        Ok(())
    }
}
