//! What is done about a task may take long, or never end: others go on, and so does the end of the process.

use futures::FutureExt;

use super::*;

/// A broker whose stage queues, or whose consumers, never answer.
#[derive(Debug)]
struct Silent {
    inner: MemoryBroker,
    consumes: bool,
}

#[async_trait]
impl Broker for Silent {
    async fn publish(&self, _: &QueueName, _: Message) -> Result<(), Fault> {
        std::future::pending().await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.inner.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.inner.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        if !self.consumes {
            std::future::pending::<()>().await;
        }
        self.inner.consume(queue, prefetch).await
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        self.inner.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.inner.subscribe(prefix).await
    }
}

/// Puts jobs into the queue that have been handed out so many times before. The twin never waits.
fn requeue(broker: &MemoryBroker, ids: &[&str], times: u32) {
    for id in ids {
        let message = Message::of_job(&job(id), Timestamp::UNIX_EPOCH);
        assert!(broker.publish(&queue(), message).now_or_never().unwrap().is_ok());
    }
    for _ in 0..times {
        let mut consumer = broker.consume(&queue(), u16::MAX).now_or_never().unwrap().unwrap();
        let mut receive = || consumer.receive().now_or_never().unwrap().unwrap().unwrap();
        let held: Vec<_> = ids.iter().map(|_| receive()).collect();
        drop((held, consumer));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_stopped_worker_has_returned_takes_no_place_but_its_own() {
    let returned = |inner: MemoryBroker| -> Arc<dyn Broker> {
        requeue(&inner, &["slow-1", "slow-2", "slow-3", "slow-4"], 1);
        Arc::new(inner)
    };
    let bench = Bench::start(returned, 0);
    bench.idle().await;
    assert_eq!(bench.stage.most_at_work.load(Ordering::SeqCst), u32::from(config().concurrency));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_came_back_keeps_nobody_from_work_while_it_waits_to_be_handed_on() {
    let full = |inner: MemoryBroker| -> Arc<dyn Broker> {
        requeue(&inner, &["again"], 2);
        Arc::new(FullAtFirst::new(inner, next_queue(), 30))
    };
    let (bench, began) = (Bench::start(full, 0), Instant::now());
    bench.send("wrong").await;
    let store = Arc::clone(&bench.store);
    eventually("the other has failed", || !store.keys().is_empty()).await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((bench.stage.tries("again"), bench.followed()), (1, 0), "the first still waits");
    bench.idle().await;
    assert_eq!((bench.stage.tries("again"), bench.followed()), (1, 1));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_no_wait_gets_ours() {
    let (bench, began) = (Bench::plain(), Instant::now());
    bench.send("busy").await;
    bench.idle().await;
    assert_eq!(bench.stage.tries("busy"), 4);
    // At least half of 1 + 2 + 4 seconds.
    assert!(began.elapsed() >= Duration::from_millis(3_500), "{:?}", began.elapsed());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_wait_outlasts_the_deadline() {
    let (bench, began) = (Bench::plain(), Instant::now());
    bench.send_job(&Job { deadline: Some(Timestamp::UNIX_EPOCH + 5.seconds()), ..job("patient") }).await;
    bench.idle().await;
    // The bench's clock stands still, so each of the three waits is as long as the whole time.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_no_broker_that_does_not_answer() {
    let silent = |consumes| move |inner| -> Arc<dyn Broker> { Arc::new(Silent { inner, consumes }) };
    let bench = Bench::start(silent(true), 0);
    bench.send("good").await;
    let stage = Arc::clone(&bench.stage);
    eventually("it waits to be handed on", || stage.tries("good") == 1).await;
    let (broker, began) = (bench.broker.clone(), Instant::now());
    bench.stop().await;
    assert!(began.elapsed() < config().grace() + Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(broker.waiting(&queue()), 1, "it went back");

    let (bench, began) = (Bench::start(silent(false), 0), Instant::now());
    sleep(Duration::from_secs(1)).await;
    bench.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
