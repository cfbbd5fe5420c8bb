//! Full queues, giant messages, wrong settings, and messages that kill their worker.

use std::{collections::BTreeMap, time::Duration};

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, DEAD_LETTER_REASON, Event, Message, QueueName};
use echogen_protocol::{Lane, ReplyTo, StageName};
use echogen_testkit::RabbitMq;
use lapin::{
    options::{BasicGetOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

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
    assert!(!error.is_permanent() && error.to_string().contains("the queue echogen.sample is full"), "{error}");
    // Other queues still accept messages, on the same channel.
    broker.publish(&QueueName::of(StageName::Encoder, Lane::Standard), message("{}")).await.unwrap();
    let mut consumer = broker.consume(&QueueName::of(StageName::Sampler, Lane::Standard), 10).await.unwrap();
    for _ in 0..5 {
        receive(&mut consumer).await.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_listeners_full_queue_holds_up_no_event_for_long() {
    let config = config(url().await);
    let broker = AmqpBroker::connect(config.clone()).await.unwrap();
    let mut good = broker.subscribe("job").await.unwrap();
    let (_connection, channel) = channel(config.url.as_ref().unwrap().expose()).await;
    let (full, reply) = (format!("{}.listener", config.prefix), format!("{}.answers", config.prefix));
    for queue in [&full, &reply] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(0));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
        channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::default(), arguments).await.unwrap();
    }
    let (exchange, options) = (format!("{}.events", config.prefix), QueueBindOptions::default());
    let bound = channel.queue_bind(full.into(), exchange.into(), "#".into(), options, FieldTable::default());
    bound.await.unwrap();
    // The first is published again for a while, and those after it are not.
    for (number, limit) in [(1, 30), (2, 5), (3, 5)] {
        let reply = Some(ReplyTo { queue: reply.clone(), correlation_id: None });
        let event = Event { topic: format!("job.completed.{number}"), body: "{}".into(), reply };
        let published = tokio::time::timeout(Duration::from_secs(limit), broker.publish_event(event)).await;
        published.expect("no listener is waited for that long").unwrap();
    }
    let mut heard = Vec::new();
    while heard.last().map(String::as_str) != Some("job.completed.3") {
        let event = tokio::time::timeout(Duration::from_secs(10), good.next()).await;
        heard.push(event.expect("others hear it").unwrap().topic);
    }
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
    tokio::time::timeout(Duration::from_secs(20), async {
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
    let options = QueueDeclareOptions { auto_delete: true, ..QueueDeclareOptions::default() };
    let name = format!("answers-{}", RabbitMq::fresh_prefix());
    channel.queue_declare(name.as_str().into(), options, FieldTable::default()).await.unwrap();
    broker.consume(&QueueName(name), 1).await.unwrap();
}
