//! Full queues, giant messages, wrong settings, and messages that kill their worker.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, DEAD_LETTER_REASON, Event, EventStream, FaultKind, Message, QueueName, Recipient};
use echogen_protocol::{Lane, ReplyTo, StageName};
use echogen_testkit::RabbitMq;
use lapin::{
    options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use tokio::time::timeout;

use crate::client::{broker, channel, config, message, ready, receive};

async fn url() -> String {
    RabbitMq::shared().await.amqp_url()
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_so() {
    let few = AmqpConfig { stage_max_messages: 5, stage_max_bytes: 1_000_000, ..config(url().await) };
    let broker = AmqpBroker::connect(few).await.unwrap();
    let mut refused = None;
    // The limit is approximate: the broker accepts some more while it counts.
    for number in 0..1_000 {
        if let Err(error) =
            broker.publish(&QueueName::of(StageName::Sampler, Lane::Standard), message(number.to_string())).await
        {
            refused = Some(error);
            break;
        }
    }
    let error = refused.expect("the queue is full at last");
    assert!(
        !error.is_permanent() && error.to_string().contains("the queue echogen.sample.standard is full"),
        "{error}"
    );
    // Other queues still accept messages, on the same channel.
    broker.publish(&QueueName::of(StageName::Encoder, Lane::Standard), message("{}")).await.unwrap();
    let mut consumer = broker.consume(&QueueName::of(StageName::Sampler, Lane::Standard), 10).await.unwrap();
    for _ in 0..5 {
        receive(&mut consumer).await.ack().await.unwrap();
    }
}

fn completed(number: usize) -> Event {
    Event { topic: format!("job.completed.{number}"), body: "{}".into(), recipient: Recipient::Subscribers }
}

/// The numbers of the next events, without repetition, until `last` has come.
async fn numbers(events: &mut Box<dyn EventStream>, last: usize) -> BTreeSet<usize> {
    let mut numbers = BTreeSet::new();
    while !numbers.contains(&last) {
        let event = timeout(Duration::from_secs(20), events.next()).await.expect("others hear it").expect("they go on");
        numbers.extend(event.topic.rsplit('.').next().and_then(|number| number.parse::<usize>().ok()));
    }
    numbers
}

#[tokio::test]
async fn a_full_queue_of_a_client_delays_nothing() {
    let config = config(url().await);
    let broker = AmqpBroker::connect(config.clone()).await.unwrap();
    let mut good = broker.subscribe("job").await.unwrap();
    let (_connection, channel) = channel(config.url.as_ref().unwrap().expose()).await;
    let (full, answers) = (format!("{}.listener", config.prefix), format!("{}.answers", config.prefix));
    for queue in [&full, &answers] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), options, arguments).await.unwrap();
    }
    let (exchange, options) = (format!("{}.events", config.prefix), QueueBindOptions::default());
    let bound = channel.queue_bind(full.into(), exchange.into(), "#".into(), options, FieldTable::default());
    bound.await.unwrap();
    for number in 1..=3 {
        let published = timeout(Duration::from_secs(5), broker.publish_event(completed(number))).await;
        let fault = published.expect("nobody is waited for").unwrap_err();
        assert_eq!(fault.kind(), FaultKind::QueueFull, "{fault}");
        let recipient = Recipient::ReplyQueue(ReplyTo { queue: answers.clone(), correlation_id: None });
        let reply = Event { recipient, ..completed(number) };
        let fault = timeout(Duration::from_secs(5), broker.publish_event(reply)).await.unwrap().unwrap_err();
        assert_eq!(fault.kind(), FaultKind::QueueFull, "{fault}");
    }
    assert_eq!(numbers(&mut good, 3).await, (1..=3).collect(), "the others have every event");
}

/// Stops the Raft server of a quorum queue: the queue has no leader, and RabbitMQ neither confirms nor rejects.
async fn stop_leader(queue: &str) {
    let expression = format!("ra:stop_server(quorum_queues, {{list_to_atom(\"%2F_{queue}\"), node()}}).");
    RabbitMq::shared().await.eval(&expression).await.expect("rabbitmqctl works");
}

#[tokio::test]
async fn a_queue_of_a_client_without_a_leader_delays_nothing() {
    let config = config(url().await);
    let broker = AmqpBroker::connect(config.clone()).await.unwrap();
    let mut good = broker.subscribe("job").await.unwrap();
    let (_connection, channel) = channel(config.url.as_ref().unwrap().expose()).await;
    let (listener, answers) = (format!("{}.listener", config.prefix), format!("{}.answers", config.prefix));
    for queue in [&listener, &answers] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), options, arguments).await.unwrap();
    }
    let (exchange, options) = (format!("{}.events", config.prefix), QueueBindOptions::default());
    let bound =
        channel.queue_bind(listener.as_str().into(), exchange.into(), "#".into(), options, FieldTable::default());
    bound.await.unwrap();
    broker.publish_event(completed(0)).await.expect("all queues take it");
    for queue in [&listener, &answers] {
        stop_leader(queue).await;
    }
    // Many more than RabbitMQ would let wait on one channel, and than make it stop reading a connection.
    let mut slowest = Duration::ZERO;
    for number in 1..=1_000 {
        let began = Instant::now();
        broker.publish_event(completed(number)).await.expect("everybody who can take it has it");
        // Tasks have another connection.
        let queue = QueueName::of(StageName::Sampler, Lane::Standard);
        broker.publish(&queue, message("{}")).await.unwrap();
        slowest = slowest.max(if number > 1 { began.elapsed() } else { Duration::ZERO });
    }
    assert_eq!(numbers(&mut good, 1_000).await, (0..=1_000).collect(), "the others have every event");
    assert!(slowest < Duration::from_secs(5), "after the first, none waits for the queue: {slowest:?}");
    let recipient = Recipient::ReplyQueue(ReplyTo { queue: answers, correlation_id: None });
    let fault = broker.publish_event(Event { recipient, ..completed(0) }).await.unwrap_err();
    assert!(matches!(fault.kind(), FaultKind::Timeout | FaultKind::QueueFull), "{fault}");
    broker.publish_event(completed(1_001)).await.expect("and the events go on");
}

#[tokio::test]
async fn what_is_too_big_is_refused_before_it_is_sent() {
    let broker = AmqpBroker::connect(AmqpConfig { max_message_bytes: 1_000, ..config(url().await) }).await.unwrap();
    let giant_headers = |bytes: usize| Message {
        body: "{}".into(),
        headers: BTreeMap::from([("giant".to_owned(), "x".repeat(bytes))]),
    };
    for message in [message(vec![b'x'; 1_001]), giant_headers(100_000)] {
        let error = broker.publish(&QueueName::of(StageName::Sampler, Lane::Standard), message).await.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("the limit is"), "{error}");
    }
    // A message at the limit is accepted, and the refused ones have not closed the channel.
    broker.publish(&QueueName::of(StageName::Sampler, Lane::Standard), giant_headers(60_000)).await.unwrap();
}

#[tokio::test]
async fn a_queue_with_other_settings_is_named() {
    let first = config(url().await);
    AmqpBroker::connect(first.clone()).await.unwrap();
    AmqpBroker::connect(first.clone()).await.expect("declaring the same again is no change");
    let error = AmqpBroker::connect(AmqpConfig { delivery_limit: 7, ..first.clone() }).await.unwrap_err();
    assert!(error.is_permanent(), "{error}");
    for part in [&format!("{}.dispatch.interactive", first.prefix), "exists with other settings", "x-delivery-limit"] {
        assert!(error.to_string().contains(part), "{part} is missing in: {error}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_permanent_and_an_absent_broker_is_not() {
    let wrong = url().await.replace("guest:guest", "guest:wrong");
    let error = AmqpBroker::connect(config(wrong)).await.unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("check the user"), "{error}");
    let error = AmqpBroker::connect(config("amqp://127.0.0.1:1/%2f".to_owned())).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
}

#[tokio::test]
async fn a_message_that_always_comes_back_is_parked_by_the_broker_with_a_reason() {
    let broker = AmqpBroker::connect(AmqpConfig { delivery_limit: 3, ..config(url().await) }).await.unwrap();
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    broker.publish(&queue, message("poison")).await.unwrap();
    let mut seen = Vec::new();
    let mut dead = broker.consume(&queue.dead_letters(), 1).await.unwrap();
    let parked = loop {
        let mut consumer = broker.consume(&queue, 1).await.unwrap();
        tokio::select! {
            // The queue delivers it once more. The worker is killed: its channel closes before the delivery is settled.
            delivery = receive(&mut consumer) => {
                drop(consumer);
                seen.push(delivery.redeliveries);
            }
            // The broker has dead-lettered it.
            parked = receive(&mut dead) => break parked,
        }
    };
    assert_eq!(seen, [0, 1, 2, 3], "each worker died with it and said how often it had come before");
    assert_eq!(parked.message.body, "poison");
    let reason = &parked.message.headers[DEAD_LETTER_REASON];
    assert!(reason.contains("gave it up") && reason.contains("delivery limit"), "{reason}");
    parked.requeue().await.unwrap();
    drop(dead);
    // The broker's own record is present for other tools.
    let (_connection, channel) = channel(&url().await).await;
    let name = &broker.topology().queues.iter().find(|queue| queue.name.ends_with("sample.dead")).unwrap().name;
    timeout(Duration::from_secs(20), async {
        while ready(&channel, name).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("it is back among the dead letters");
    let got = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await.unwrap().unwrap();
    let headers = got.properties.headers().clone().unwrap_or_default();
    assert!(matches!(headers.inner().get("x-death"), Some(AMQPValue::FieldArray(_))), "{headers:?}");
}

#[tokio::test]
async fn looking_at_a_dead_letter_does_not_wear_it_out() {
    let broker = broker().await;
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    broker.dead_letter(&queue, message("dead"), "for a look").await.unwrap();
    let mut dead = broker.consume(&queue.dead_letters(), 1).await.unwrap();
    for _ in 0..40 {
        let delivery = receive(&mut dead).await;
        assert_eq!(delivery.message.headers[DEAD_LETTER_REASON], "for a look");
        delivery.requeue().await.unwrap();
    }
}

#[tokio::test]
async fn a_queue_that_nobody_has_is_a_permanent_error() {
    let broker = broker().await;
    let error = broker.consume(&QueueName("echogen.nowhere".to_owned()), 1).await.map(drop).unwrap_err();
    assert!(error.is_permanent(), "{error}");
    let error = broker.publish(&QueueName("q".repeat(300)), message("{}")).await.unwrap_err();
    assert!(error.is_permanent(), "{error}");
}

#[tokio::test]
async fn a_clients_own_queue_can_be_consumed() {
    let broker = broker().await;
    let (_connection, channel) = channel(&url().await).await;
    let options = QueueDeclareOptions { durable: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let name = format!("answers-{}", RabbitMq::fresh_prefix());
    channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.unwrap();
    broker.consume(&QueueName(name), 1).await.unwrap();
}
