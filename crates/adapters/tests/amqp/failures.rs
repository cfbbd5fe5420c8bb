//! The broker is killed, is cut off, cancels a consumer, or times it out; no message is lost.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, Consumer, Fault, QueueName};
use echogen_protocol::{Lane, StageName};
use echogen_testkit::{CutProxy, RabbitMq};
use lapin::options::QueueDeleteOptions;
use tokio::time::{sleep, timeout};

use crate::client::{broker, channel, config, consume, message, receive};

fn full_name(broker: &AmqpBroker, queue: &QueueName) -> String {
    let ending = queue.as_str().trim_start_matches("echogen");
    let mut queues = broker.topology().queues.iter().map(|queue| queue.name.clone());
    queues.find(|name| name.ends_with(ending)).expect("it is declared")
}

fn is_consuming(broker: &AmqpBroker, queue: &QueueName) -> bool {
    broker.consumption().iter().any(|state| state.queue == *queue && state.consuming)
}

/// Waits for the end of the consumer: a transient error, or the end of its deliveries.
async fn end(consumer: &mut Box<dyn Consumer>) {
    loop {
        match timeout(Duration::from_secs(40), consumer.receive()).await.expect("its end is noticed") {
            Ok(Some(delivery)) => drop(delivery),
            Ok(None) => return,
            Err(error) => {
                assert!(!error.is_permanent(), "{error}");
                return;
            }
        }
    }
}

/// Publishes until the broker has confirmed it, as a worker's retries do.
async fn publish_surely(broker: &AmqpBroker, queue: &QueueName, body: String) -> Result<(), Fault> {
    loop {
        match broker.publish(queue, message(body.clone())).await {
            Err(error) if !error.is_permanent() => sleep(Duration::from_millis(50)).await,
            ended => return ended,
        }
    }
}

#[tokio::test]
async fn a_broker_killed_in_mid_work_loses_nothing() {
    let server = RabbitMq::start().await.unwrap();
    let broker = AmqpBroker::connect(config(server.amqp_url())).await.unwrap();
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    let total = 400;
    let publishing = async {
        for number in 0..total {
            publish_surely(&broker, &queue, number.to_string()).await.unwrap();
            sleep(Duration::from_millis(2)).await;
        }
    };
    let killing = async {
        sleep(Duration::from_millis(300)).await;
        server.kill_9();
        assert!(!is_consuming(&broker, &queue) || broker.publish(&queue, message("late")).await.is_err());
        server.restart().await.unwrap();
    };
    let consuming = async {
        let mut seen = BTreeSet::new();
        let mut consumer = consume(&broker, &queue, 20).await;
        while seen.len() < total {
            match timeout(Duration::from_secs(60), consumer.receive()).await.expect("work goes on") {
                Ok(Some(delivery)) => {
                    let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
                    // What was certainly acknowledged is done; the rest is delivered again.
                    if delivery.ack().await.is_ok() {
                        seen.extend(body.parse::<usize>().ok());
                    }
                }
                Ok(None) | Err(_) => {
                    drop(consumer);
                    consumer = consume(&broker, &queue, 20).await;
                }
            }
        }
        assert!(is_consuming(&broker, &queue));
    };
    tokio::join!(publishing, killing, consuming);
}

#[tokio::test]
async fn a_queue_deleted_under_its_consumer_is_declared_again() {
    let broker = broker().await;
    let queue = QueueName::of(StageName::Segmenter, Lane::Standard);
    let mut consumer = broker.consume(&queue, 1).await.unwrap();
    assert!(is_consuming(&broker, &queue));
    let (_connection, channel) = channel(&RabbitMq::shared().await.amqp_url()).await;
    let name = full_name(&broker, &queue);
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    end(&mut consumer).await;
    assert!(!is_consuming(&broker, &queue));
    let mut consumer = broker.consume(&queue, 1).await.unwrap();
    assert!(is_consuming(&broker, &queue));
    broker.publish(&queue, message("after")).await.unwrap();
    receive(&mut consumer).await.ack().await.unwrap();
    // The same for a caller that only publishes: an error, and the next attempt finds the queue.
    channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    let error = broker.publish(&queue, message("lost")).await.unwrap_err();
    assert!(!error.is_permanent() && error.to_string().contains("declared anew"), "{error}");
    broker.publish(&queue, message("again")).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_cut_ends_what_hung_on_it_and_is_made_again() {
    let server = RabbitMq::shared().await;
    let proxy = CutProxy::start(format!("127.0.0.1:{}", server.amqp_port())).await.unwrap();
    let broker = AmqpBroker::connect(config(server.amqp_url_at(proxy.port()))).await.unwrap();
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    broker.publish(&queue, message("one")).await.unwrap();
    let mut consumer = broker.consume(&queue, 1).await.unwrap();
    let held = receive(&mut consumer).await;
    let since = broker.consumption()[0].since;
    proxy.cut();
    // This shows without a call of `receive`: a worker at its limit makes none.
    for _ in 0..600 {
        if !is_consuming(&broker, &queue) {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let state = &broker.consumption()[0];
    assert!(!state.consuming && state.since > since, "{state:?}");
    end(&mut consumer).await;
    let error = held.ack().await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    let error = broker.publish(&queue, message("two")).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    proxy.restore();
    let mut consumer = consume(&broker, &queue, 1).await;
    let again = receive(&mut consumer).await;
    assert_eq!(again.message.body, "one");
    assert!(again.redeliveries >= 1);
    again.ack().await.unwrap();
    publish_surely(&broker, &queue, "two".to_owned()).await.unwrap();
    assert_eq!(receive(&mut consumer).await.message.body, "two");
}

#[tokio::test]
async fn a_dropped_consumer_gives_up_also_what_is_still_held() {
    let broker = broker().await;
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    broker.publish(&queue, message("one")).await.unwrap();
    let mut consumer = broker.consume(&queue, 1).await.unwrap();
    let held = receive(&mut consumer).await;
    drop(consumer);
    let mut other = broker.consume(&queue, 1).await.unwrap();
    receive(&mut other).await.ack().await.unwrap();
    assert!(!held.ack().await.unwrap_err().is_permanent());
}

#[tokio::test]
async fn a_silent_network_is_noticed_by_heartbeats() {
    let server = RabbitMq::shared().await;
    let proxy = CutProxy::start(format!("127.0.0.1:{}", server.amqp_port())).await.unwrap();
    let short_timeouts =
        AmqpConfig { heartbeat_seconds: 1, confirm_timeout_seconds: 2.0, ..config(server.amqp_url_at(proxy.port())) };
    let broker = AmqpBroker::connect(short_timeouts).await.unwrap();
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    let mut consumer = broker.consume(&queue, 1).await.unwrap();
    proxy.stall();
    let begin = Instant::now();
    let error = broker.publish(&queue, message("one")).await.unwrap_err();
    assert!(!error.is_permanent(), "{error}");
    end(&mut consumer).await;
    assert!(!is_consuming(&broker, &queue));
    println!("noticed after {:?}", begin.elapsed());
    proxy.cut();
    proxy.restore();
    let mut consumer = consume(&broker, &queue, 1).await;
    publish_surely(&broker, &queue, "two".to_owned()).await.unwrap();
    receive(&mut consumer).await.ack().await.unwrap();
}

#[tokio::test]
async fn a_queue_whose_consumer_the_broker_timed_out_is_consumed_again() {
    let server = RabbitMq::start_with("{consumer_timeout, 1500}").await.unwrap();
    let broker = AmqpBroker::connect(config(server.amqp_url())).await.unwrap();
    let queue = QueueName::of(StageName::Sampler, Lane::Standard);
    broker.publish(&queue, message("slow")).await.unwrap();
    let mut consumer = broker.consume(&queue, 1).await.unwrap();
    let held = receive(&mut consumer).await;
    end(&mut consumer).await;
    assert!(!is_consuming(&broker, &queue));
    assert!(!held.ack().await.unwrap_err().is_permanent());
    let mut consumer = broker.consume(&queue, 1).await.unwrap();
    let again = receive(&mut consumer).await;
    assert_eq!((&again.message.body[..], again.redeliveries), (&b"slow"[..], 1));
    again.ack().await.unwrap();
}
