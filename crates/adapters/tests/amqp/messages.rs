//! What goes to other programs and what comes from them.

use std::{collections::BTreeMap, time::Duration};

use echogen_ports::{Broker, Event, FaultKind, Message, QueueName, Recipient};
use echogen_protocol::{Lane, ReplyTo, StageName};
use echogen_testkit::RabbitMq;
use futures::StreamExt;
use lapin::{
    BasicProperties, Channel,
    message::Delivery,
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::{Instant, timeout};

use crate::client::{broker, channel, message, put, ready, receive};

fn text(value: &Option<ShortString>) -> Option<&str> {
    value.as_ref().map(ShortString::as_str)
}

/// Consumes a queue as any program would, without acknowledging.
async fn listen(channel: &Channel, queue: &str) -> lapin::Consumer {
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let consumer = channel.basic_consume(queue.into(), ShortString::default(), options, FieldTable::default()).await;
    consumer.expect("it consumes")
}

async fn next(consumer: &mut lapin::Consumer) -> Delivery {
    let next = timeout(Duration::from_secs(20), consumer.next()).await.expect("a message comes soon");
    next.expect("the consumer goes on").expect("it is a message")
}

#[tokio::test]
async fn any_program_puts_a_job_into_its_lane() {
    let broker = broker().await;
    let (_connection, channel) = channel(&RabbitMq::shared().await.amqp_url()).await;
    let mut headers = FieldTable::default();
    headers.insert("CC".into(), AMQPValue::FieldArray(vec![AMQPValue::LongString("nowhere".into())].into()));
    headers.insert("traceparent".into(), AMQPValue::LongString("00-1-2-01".into()));
    headers.insert("priority".into(), AMQPValue::LongInt(3));
    let properties = BasicProperties::default().with_headers(headers).with_reply_to("answers".into());
    let exchange = format!("{}.jobs", broker.topology().exchanges[0].name.trim_end_matches(".jobs"));
    put(&channel, &exchange, "bulk", b"{}", properties.with_correlation_id("7".into())).await;
    let queue = QueueName::of(StageName::Dispatcher, Lane::Bulk);
    let mut consumer = broker.consume(&queue, 1).await.unwrap();
    let delivery = receive(&mut consumer).await;
    let expected = [("correlation-id", "7"), ("priority", "3"), ("reply-to", "answers"), ("traceparent", "00-1-2-01")];
    let expected: BTreeMap<String, String> = expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
    assert_eq!(delivery.message, Message { body: "{}".into(), headers: expected });
    // A received message can be published again: none of its headers closes the channel.
    broker.publish(&QueueName::of(StageName::Segmenter, Lane::Standard), delivery.message.clone()).await.unwrap();
    delivery.ack().await.unwrap();
}

#[tokio::test]
async fn what_is_published_is_persistent_json_with_the_jobs_id() {
    let broker = broker().await;
    let (_connection, channel) = channel(&RabbitMq::shared().await.amqp_url()).await;
    let headers = BTreeMap::from([("echogen-job".to_owned(), "one".to_owned())]);
    broker
        .publish(&QueueName::of(StageName::Sampler, Lane::Standard), Message { body: "{}".into(), headers })
        .await
        .unwrap();
    let queue = broker.topology().queues.iter().find(|queue| queue.name.ends_with(".sample.standard")).unwrap();
    let mut consumer = listen(&channel, &queue.name).await;
    let properties = next(&mut consumer).await.properties;
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(text(properties.content_type()), Some("application/json"));
    assert_eq!(text(properties.message_id()), Some("one"));
    assert_eq!(*properties.expiration(), None);
}

#[tokio::test]
async fn an_end_is_published_to_the_reply_queue() {
    let broker = broker().await;
    let (_connection, channel) = channel(&RabbitMq::shared().await.amqp_url()).await;
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(ShortString::default(), options, FieldTable::default()).await.unwrap();
    let mut consumer = listen(&channel, queue.name().as_str()).await;
    let reply = |queue: &str| ReplyTo { queue: queue.to_owned(), correlation_id: Some("7".to_owned()) };
    let event = |queue: &str| Event {
        topic: "job.completed.one".to_owned(),
        body: "{}".into(),
        recipient: Recipient::ReplyQueue(reply(queue)),
    };
    let missing = broker.publish_event(event("nowhere")).await.unwrap_err();
    assert_eq!(missing.kind(), FaultKind::NotFound, "{missing}");
    broker.publish_event(event(&"q".repeat(300))).await.expect("no queue has such a name, now or later");
    broker.publish_event(event(queue.name().as_str())).await.unwrap();
    let answer = next(&mut consumer).await;
    assert_eq!(answer.data, b"{}");
    assert_eq!(text(answer.properties.correlation_id()), Some("7"));
}

#[tokio::test]
async fn a_reply_never_goes_into_a_queue_of_the_installation() {
    let broker = broker().await;
    let (_connection, channel) = channel(&RabbitMq::shared().await.amqp_url()).await;
    let queue = broker.topology().queues[0].name.clone();
    let reply = ReplyTo { queue: queue.clone(), correlation_id: None };
    let recipient = Recipient::ReplyQueue(reply);
    let event = Event { topic: "job.completed.one".to_owned(), body: "{}".into(), recipient };
    broker.publish_event(event).await.unwrap();
    assert_eq!(ready(&channel, &queue).await, 0);
}

#[tokio::test]
async fn delays_are_kept_about_and_none_waits_for_a_much_longer_one() {
    let broker = broker().await;
    let queue = QueueName::of(StageName::Encoder, Lane::Standard);
    let mut consumer = broker.consume(&queue, 10).await.unwrap();
    let begin = Instant::now();
    // Longest first: within one tier the later ones wait for the first, and tiers do not wait for each other.
    for millis in [4_100_u64, 2_000, 900, 100] {
        let delay = Duration::from_millis(millis);
        broker.publish_after(&queue, message(millis.to_string()), delay).await.unwrap();
    }
    let mut order = Vec::new();
    for _ in 0..4 {
        let delivery = receive(&mut consumer).await;
        let (millis, took) = (String::from_utf8_lossy(&delivery.message.body).into_owned(), begin.elapsed());
        assert!(took >= Duration::from_millis(millis.parse().unwrap()), "{millis} came after {took:?}");
        delivery.ack().await.unwrap();
        order.push(millis);
    }
    assert_eq!(order[..2], ["100", "900"]);
    // The longest is in the tier of 16 seconds, and waits less than that.
    assert!(begin.elapsed() < Duration::from_secs(14), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn many_publish_at_once_and_each_gets_its_own_answer() {
    let broker = broker().await;
    let messages = 5_000;
    let begin = Instant::now();
    let publishes = (0..messages).map(|number| {
        let broker = &broker;
        async move {
            // Every tenth goes to a queue that does not exist, among those that are confirmed together.
            let known = number % 10 != 0;
            let queue = if known {
                QueueName::of(StageName::Sampler, Lane::Standard)
            } else {
                QueueName("echogen.nowhere".to_owned())
            };
            let published = broker.publish(&queue, message(number.to_string())).await;
            assert_eq!(published.is_ok(), known, "{number}: {published:?}");
            published.err()
        }
    });
    let errors = futures::future::join_all(publishes).await;
    println!("{messages} concurrent publishes in {:?}", begin.elapsed());
    let error = errors.into_iter().flatten().next().unwrap();
    assert!(error.to_string().contains("nowhere is bound"), "{error}");
    let (_connection, channel) = channel(&RabbitMq::shared().await.amqp_url()).await;
    let queue = broker.topology().queues.iter().find(|queue| queue.name.ends_with(".sample.standard")).unwrap();
    assert_eq!(ready(&channel, &queue.name).await, messages / 10 * 9);
}

#[tokio::test]
async fn the_depth_of_a_queue_is_what_waits_in_it() {
    let broker = broker().await;
    let (queue, other) =
        (QueueName::of(StageName::Segmenter, Lane::Standard), QueueName("echogen.never-declared".to_owned()));
    let asked = [queue.clone(), other, QueueName::of(StageName::Encoder, Lane::Standard)];
    for depth in [0, 3] {
        let wanted = vec![(queue.clone(), depth), (QueueName::of(StageName::Encoder, Lane::Standard), 0)];
        // A quorum queue counts what was confirmed only a moment later.
        let limit = Instant::now() + Duration::from_secs(20);
        while broker.depths(&asked).await.unwrap() != wanted {
            assert!(Instant::now() < limit, "{:?}", broker.depths(&asked).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for _ in depth..3 {
            broker.publish(&queue, message("{}")).await.unwrap();
        }
    }
}
