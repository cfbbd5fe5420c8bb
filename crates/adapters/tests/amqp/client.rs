//! Shared by the tests: brokers with their own prefixes, and a plain AMQP client that acts as another program.

use std::time::Duration;

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, Consumer, Delivery, Message, QueueName};
use echogen_testkit::RabbitMq;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use tokio::time::timeout;

/// Settings for a server, under a fresh prefix. One partition makes few queues.
pub(crate) fn config(url: String) -> AmqpConfig {
    AmqpConfig { prefix: RabbitMq::fresh_prefix(), partitions: 1, ..AmqpConfig::at(url) }
}

/// A broker on the shared server.
pub(crate) async fn broker() -> AmqpBroker {
    let server = RabbitMq::shared().await;
    AmqpBroker::connect(config(server.amqp_url())).await.expect("the broker takes connections")
}

/// A connection and a channel as any program would open them.
pub(crate) async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.expect("it connects");
    let channel = connection.create_channel().await.expect("it gives a channel");
    (connection, channel)
}

/// Publishes as any program would.
pub(crate) async fn put(channel: &Channel, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let sent = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await;
    sent.expect("it sends").await.expect("it is taken");
}

/// How many messages a queue holds ready.
pub(crate) async fn ready(channel: &Channel, queue: &str) -> u32 {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), options, FieldTable::default()).await;
    declared.expect("the queue is there").message_count()
}

/// The next delivery, soon.
pub(crate) async fn receive(consumer: &mut Box<dyn Consumer>) -> Delivery {
    let received = timeout(Duration::from_secs(30), consumer.receive()).await.expect("a delivery comes soon");
    received.expect("receive works").expect("the consumer goes on")
}

/// A message with a body.
pub(crate) fn message(body: impl Into<bytes::Bytes>) -> Message {
    Message { body: body.into(), ..Message::default() }
}

/// A consumer of a queue; retries while the broker is unavailable, as a worker does.
pub(crate) async fn consume(broker: &AmqpBroker, queue: &QueueName, prefetch: u16) -> Box<dyn Consumer> {
    for _ in 0..300 {
        match broker.consume(queue, prefetch).await {
            Ok(consumer) => return consumer,
            Err(error) => assert!(!error.is_permanent(), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{queue} could not be consumed again");
}
