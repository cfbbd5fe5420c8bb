//! The contract of [`Broker`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use echogen_protocol::{Lane, StageName};

use super::{not_now, soon};
use echogen_ports::{
    Broker, Consumer, DEAD_LETTER_QUEUE, DEAD_LETTER_REASON, DEAD_LETTER_TIME, Delivery, Event, EventStream, Message,
    QueueName, Recipient,
};

/// Checks a broker.
pub async fn broker_contract(fresh: impl AsyncFn() -> Arc<dyn Broker>) {
    what_was_published_comes_once(&*fresh().await).await;
    queues_are_apart(&*fresh().await).await;
    prefetch_bounds_what_is_out(&*fresh().await).await;
    requeued_and_dropped_deliveries_come_again(&*fresh().await).await;
    a_dropped_consumer_puts_everything_back(&*fresh().await).await;
    a_stopped_consumer_takes_nothing_more_and_settles_what_it_has(&*fresh().await).await;
    a_cancelled_consumer_hands_out_what_has_come_and_no_more(&*fresh().await).await;
    two_consumers_share_a_queue(&*fresh().await).await;
    a_delayed_message_comes_late(&*fresh().await).await;
    dead_letters_are_parked_with_their_reason(&*fresh().await).await;
    an_unfinished_receive_loses_nothing(&*fresh().await).await;
    an_unfinished_consume_takes_nothing(&*fresh().await).await;
    events_reach_every_listener_of_their_topic(&*fresh().await).await;
}

fn queue() -> QueueName {
    QueueName::of(StageName::Sampler, Lane::Standard)
}

fn message(body: &str) -> Message {
    let headers = BTreeMap::from([("echogen-failures".to_owned(), "2".to_owned())]);
    Message { body: body.to_owned().into(), headers }
}

async fn publish(broker: &dyn Broker, bodies: &[&str]) {
    for body in bodies {
        broker.publish(&queue(), message(body)).await.expect("publish works");
    }
}

async fn consume(broker: &dyn Broker, prefetch: u16) -> Box<dyn Consumer> {
    broker.consume(&queue(), prefetch).await.expect("consume works")
}

async fn receive(consumer: &mut Box<dyn Consumer>) -> Delivery {
    let received = soon("a delivery comes", consumer.receive()).await;
    received.expect("receive works").expect("the consumer goes on")
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(&delivery.message.body).into_owned()
}

async fn what_was_published_comes_once(broker: &dyn Broker) {
    publish(broker, &["one", "two"]).await;
    let mut consumer = consume(broker, 10).await;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let delivery = receive(&mut consumer).await;
        assert_eq!(delivery.redeliveries, 0);
        assert_eq!(delivery.message, message(&body(&delivery)), "headers and body come as they were");
        bodies.push(body(&delivery));
        delivery.ack().await.expect("ack works");
    }
    assert_eq!(bodies, ["one", "two"]);
    not_now("an acknowledged message comes again", consumer.receive()).await;
    drop(consumer);
    let mut consumer = consume(broker, 10).await;
    not_now("an acknowledged message comes to the next consumer", consumer.receive()).await;
}

async fn queues_are_apart(broker: &dyn Broker) {
    broker
        .publish(&QueueName::of(StageName::Encoder, Lane::Standard), message("elsewhere"))
        .await
        .expect("publish works");
    let mut consumer = consume(broker, 1).await;
    not_now("a message of another queue comes", consumer.receive()).await;
}

async fn prefetch_bounds_what_is_out(broker: &dyn Broker) {
    publish(broker, &["one", "two", "three"]).await;
    let mut consumer = consume(broker, 2).await;
    let (first, _second) = (receive(&mut consumer).await, receive(&mut consumer).await);
    not_now("a third delivery beyond the prefetch", consumer.receive()).await;
    first.ack().await.expect("ack works");
    assert_eq!(body(&receive(&mut consumer).await), "three");
}

/// Whoever gives up waiting for a consumer may have reached the broker, which delivers to it.
async fn an_unfinished_consume_takes_nothing(broker: &dyn Broker) {
    for round in 0..60 {
        // A new one each time: a broker may drop what was delivered too often.
        publish(broker, &["one"]).await;
        let opened = tokio::time::timeout(Duration::from_micros(50 * round), broker.consume(&queue(), 1)).await;
        drop(opened);
        let mut consumer = consume(broker, 1).await;
        receive(&mut consumer).await.ack().await.expect("ack works");
    }
}

async fn requeued_and_dropped_deliveries_come_again(broker: &dyn Broker) {
    publish(broker, &["one"]).await;
    let mut consumer = consume(broker, 1).await;
    receive(&mut consumer).await.requeue().await.expect("requeue works");
    let again = receive(&mut consumer).await;
    assert_eq!(body(&again), "one");
    assert!(again.redeliveries >= 1, "it says that it came before");
    drop(again);
    let again = receive(&mut consumer).await;
    assert!(again.redeliveries >= 1, "it says that it came before");
    again.ack().await.expect("ack works");
    not_now("it comes after the ack", consumer.receive()).await;
}

async fn a_dropped_consumer_puts_everything_back(broker: &dyn Broker) {
    publish(broker, &["one", "two"]).await;
    let mut consumer = consume(broker, 2).await;
    let (first, second) = (receive(&mut consumer).await, receive(&mut consumer).await);
    drop(consumer);
    let error = first.ack().await.expect_err("its consumer is gone");
    assert!(!error.is_permanent(), "{error}");
    drop(second);
    let mut consumer = consume(broker, 2).await;
    let (first, second) = (receive(&mut consumer).await, receive(&mut consumer).await);
    assert_eq!([body(&first), body(&second)], ["one", "two"]);
}

async fn a_stopped_consumer_takes_nothing_more_and_settles_what_it_has(broker: &dyn Broker) {
    publish(broker, &["in hand", "not received"]).await;
    let mut consumer = consume(broker, 10).await;
    let in_hand = receive(&mut consumer).await;
    consumer.stop().await;
    publish(broker, &["later"]).await;
    let mut other = consume(broker, 10).await;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let delivery = receive(&mut other).await;
        bodies.push(body(&delivery));
        delivery.ack().await.expect("ack works");
    }
    bodies.sort();
    assert_eq!(bodies, ["later", "not received"]);
    let after = soon("a stopped consumer says so", consumer.receive()).await;
    assert!(matches!(after, Ok(None)), "{after:?}");
    in_hand.ack().await.expect("what is in hand can be settled");
    drop(consumer);
    not_now("an acknowledged message comes again", other.receive()).await;
}

async fn a_cancelled_consumer_hands_out_what_has_come_and_no_more(broker: &dyn Broker) {
    publish(broker, &["one", "two"]).await;
    let mut consumer = consume(broker, 10).await;
    let first = receive(&mut consumer).await;
    consumer.cancel().await;
    publish(broker, &["later"]).await;
    let (mut mine, mut others) = (vec![body(&first)], Vec::new());
    let mut in_hand = vec![first];
    while let Some(delivery) =
        soon("a cancelled consumer comes to its end", consumer.receive()).await.expect("it works")
    {
        mine.push(body(&delivery));
        in_hand.push(delivery);
    }
    let mut other = consume(broker, 10).await;
    while mine.len() + others.len() < 3 {
        let delivery = receive(&mut other).await;
        others.push(body(&delivery));
        delivery.ack().await.expect("ack works");
    }
    assert!(others.contains(&"later".to_owned()), "{mine:?}, {others:?}");
    for delivery in in_hand {
        assert_eq!(delivery.redeliveries, 0, "nothing is requeued");
        delivery.ack().await.expect("what is in hand can be settled");
    }
    drop(consumer);
    not_now("an acknowledged message comes again", other.receive()).await;
}

async fn two_consumers_share_a_queue(broker: &dyn Broker) {
    publish(broker, &["one", "two"]).await;
    let (mut left, mut right) = (consume(broker, 1).await, consume(broker, 1).await);
    let (first, second) = (receive(&mut left).await, receive(&mut right).await);
    assert_ne!(body(&first), body(&second));
    first.ack().await.expect("ack works");
    second.ack().await.expect("ack works");
    not_now("a message comes to both", left.receive()).await;
    not_now("a message comes to both", right.receive()).await;
}

async fn a_delayed_message_comes_late(broker: &dyn Broker) {
    let mut consumer = consume(broker, 2).await;
    broker.publish_after(&queue(), message("late"), Duration::from_secs(2)).await.expect("publish works");
    publish(broker, &["now"]).await;
    let first = receive(&mut consumer).await;
    assert_eq!(body(&first), "now");
    not_now("the delayed message comes at once", consumer.receive()).await;
    let second = receive(&mut consumer).await;
    assert_eq!(second.message, message("late"));
}

async fn dead_letters_are_parked_with_their_reason(broker: &dyn Broker) {
    broker.dead_letter(&queue(), message("bad"), "it never worked").await.expect("dead_letter works");
    let mut consumer = consume(broker, 1).await;
    not_now("a dead letter comes by the ordinary queue", consumer.receive()).await;
    let mut dead = broker.consume(&queue().dead_letters(), 1).await.expect("consume works");
    let delivery = receive(&mut dead).await;
    assert_eq!(delivery.message.body, "bad");
    assert_eq!(delivery.message.headers[DEAD_LETTER_REASON], "it never worked");
    assert_eq!(delivery.message.headers[DEAD_LETTER_QUEUE], queue().as_str());
    assert_eq!(delivery.message.headers["echogen-failures"], "2", "its own headers stay");
    let parked: jiff::Timestamp = delivery.message.headers[DEAD_LETTER_TIME].parse().expect("a time");
    assert!(parked.duration_until(jiff::Timestamp::now()).as_secs() < 3_600, "{parked}");
    delivery.ack().await.expect("ack works");
}

async fn an_unfinished_receive_loses_nothing(broker: &dyn Broker) {
    let mut consumer = consume(broker, 1).await;
    for _ in 0..3 {
        not_now("a message of an empty queue", consumer.receive()).await;
    }
    publish(broker, &["one"]).await;
    assert_eq!(body(&receive(&mut consumer).await), "one");
}

async fn events_reach_every_listener_of_their_topic(broker: &dyn Broker) {
    let event = |topic: &str| Event { topic: topic.to_owned(), body: "{}".into(), recipient: Recipient::Subscribers };
    broker.publish_event(event("job.completed.early")).await.expect("an event without listeners is no error");
    let mut all = broker.subscribe("").await.expect("subscribe works");
    let mut completed = broker.subscribe("job.completed").await.expect("subscribe works");
    let mut two = broker.subscribe("job.*.two").await.expect("subscribe works");
    let mut dotted = broker.subscribe("job.*.three.a").await.expect("subscribe works");
    for topic in ["job.completed.one", "job.failed.two", "job.completed.three"] {
        broker.publish_event(event(topic)).await.expect("publish_event works");
    }
    assert_eq!(topics(&mut all, 3).await, ["job.completed.one", "job.failed.two", "job.completed.three"]);
    assert_eq!(topics(&mut completed, 2).await, ["job.completed.one", "job.completed.three"]);
    assert_eq!(topics(&mut two, 1).await, ["job.failed.two"]);
    for topic in ["job.completed.three.b", "job.completed.three.a", "job.completed.two"] {
        broker.publish_event(event(topic)).await.expect("publish_event works");
    }
    assert_eq!(topics(&mut all, 3).await.len(), 3);
    assert_eq!(topics(&mut completed, 3).await.len(), 3);
    assert_eq!(topics(&mut two, 1).await, ["job.completed.two"]);
    assert_eq!(topics(&mut dotted, 1).await, ["job.completed.three.a"]);
    not_now("an event of another job", dotted.next()).await;
    not_now("an event of another job", two.next()).await;
    not_now("more events than were published", all.next()).await;
    not_now("an event of another topic", completed.next()).await;
}

async fn topics(stream: &mut Box<dyn EventStream>, count: usize) -> Vec<String> {
    let mut topics = Vec::new();
    for _ in 0..count {
        topics.push(soon("an event comes", stream.next()).await.expect("the stream goes on").topic);
    }
    topics
}
