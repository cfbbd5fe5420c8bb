//! Tasks that wait for their turn: they take no time of their attempt, and a worker takes no more than it can begin.

use echogen_protocol::SampleTask;
use tokio::sync::Semaphore;

use super::*;

/// Begins a task when it gets a turn, and then works for some seconds.
struct TakesTurns {
    turns: Semaphore,
    received: AtomicU32,
    work: Duration,
}

#[async_trait]
impl Stage for TakesTurns {
    type Task = SampleTask;

    async fn run(&self, _: SampleTask, context: &StageContext) -> Result<Outcome, Fault> {
        self.received.fetch_add(1, Ordering::SeqCst);
        self.turns.acquire().await.unwrap().forget();
        context.begin();
        sleep(self.work).await;
        Ok(Outcome::Done)
    }

    fn begins_later(&self) -> bool {
        true
    }
}

struct Turns {
    broker: MemoryBroker,
    stage: Arc<TakesTurns>,
    shutdown: CancellationToken,
    worker: JoinHandle<Result<(), Fault>>,
}

fn samples() -> QueueName {
    QueueName::of(StageName::Sampler, Lane::Standard)
}

/// Publishes a task that costs so much.
async fn publish(broker: &MemoryBroker, id: &str, lane: Lane, pictures: u32) {
    let (encoded_subject, progress) = ("subjects/a".to_owned(), Progress::default());
    let task = SampleTask { job: job(id), encoded_subject, cut_out: None, progress };
    let headers = TaskHeaders { cost: Some(pictures), ..TaskHeaders::default() };
    broker.publish(&QueueName::of(StageName::Sampler, lane), Message::of_task(&task, &headers)).await.unwrap();
}

/// A worker of three tasks that cost so much each.
async fn start(work: Duration, pictures: u32) -> Turns {
    start_with(work, pictures, 8).await
}

async fn start_with(work: Duration, pictures: u32, concurrency: u16) -> Turns {
    let (broker, store) = (MemoryBroker::new(), Arc::new(MemoryObjectStore::new()));
    for id in ["one", "two", "three"] {
        publish(&broker, id, Lane::Standard, pictures).await;
    }
    let stage = Arc::new(TakesTurns { turns: Semaphore::new(0), received: AtomicU32::new(0), work });
    let results = ResultWriter::new(store, Arc::new(broker.clone()), Clock::system(), "1.2.3");
    let config = WorkerConfig { concurrency, max_waiting_cost: 16, ..config() };
    let worker = Worker::new(Arc::clone(&stage), Arc::new(broker.clone()), Arc::new(results), config);
    let shutdown = CancellationToken::new();
    let worker = TaskTracker::new().spawn(worker.run(shutdown.clone()));
    sleep(Duration::from_secs(1)).await;
    Turns { broker, stage, shutdown, worker }
}

impl Turns {
    fn received(&self) -> u32 {
        self.stage.received.load(Ordering::SeqCst)
    }

    async fn next_turn(&self) {
        self.stage.turns.add_permits(1);
        sleep(Duration::from_secs(1)).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.worker.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_turn_takes_no_time_of_an_attempt() {
    let turns = start(Duration::from_secs(9), 1).await;
    assert_eq!(turns.received(), 3);
    // Ten seconds are the limit.
    sleep(Duration::from_secs(3_600)).await;
    for _ in 0..3 {
        turns.next_turn().await;
    }
    eventually("all are done", || turns.broker.unsettled() == 0 && turns.broker.waiting(&samples()) == 0).await;
    assert_eq!((turns.received(), turns.broker.dead_letters(&samples()).len()), (3, 0), "at the first attempt");
    turns.stop().await;
}

#[tokio::test(start_paused = true)]
async fn work_that_has_begun_has_its_limit() {
    let turns = start(Duration::from_secs(11), 16).await;
    let mut retries = turns.broker.subscribe("job.retrying").await.unwrap();
    turns.next_turn().await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(turns.received(), 2, "the second one came when the first had begun");
    let retried = retries.next().await.unwrap().to_job().unwrap();
    assert_eq!(retried.subject.as_str(), "one", "it is to come again");
    turns.shutdown.cancel();
    turns.stage.turns.add_permits(1);
    turns.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_takes_what_it_can_begin_and_no_more() {
    let turns = start(Duration::from_secs(5), 64).await;
    for received in 1..=3 {
        assert_eq!(turns.received(), received);
        turns.next_turn().await;
    }
    let cheap = start(Duration::from_secs(5), 5).await;
    assert_eq!(cheap.received(), 3);
    cheap.stage.turns.add_permits(3);
    turns.stop().await;
    cheap.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_interactive_task_waits_for_none_of_another_lane() {
    // Full of tasks that have not begun, and full of tasks at work.
    for (pictures, concurrency) in [(16, 8), (1, 1)] {
        let turns = start_with(Duration::from_secs(5), pictures, concurrency).await;
        assert_eq!(turns.received(), 1);
        publish(&turns.broker, "now", Lane::Interactive, 16).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(turns.received(), 2, "with {concurrency} at once");
        publish(&turns.broker, "next", Lane::Interactive, 16).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(turns.received(), 2, "it waits for its own lane");
        turns.stage.turns.add_permits(5);
        eventually("all are done", || turns.received() == 5 && turns.broker.unsettled() == 0).await;
        turns.stop().await;
    }
}
