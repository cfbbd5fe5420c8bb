//! Several queues under one limit, served by weight.

use echogen_ports::DEAD_LETTER_QUEUE;
use echogen_protocol::{CutOut, EncodeTask, SubjectArea};
use echogen_testkit::ReceivesAhead;

use super::*;

/// Notes the lane of each task as it begins.
#[derive(Debug, Default)]
struct Order(Mutex<Vec<Lane>>);

#[async_trait]
impl Stage for Order {
    type Task = Job;

    async fn run(&self, job: Job, _: &StageContext) -> Result<Outcome, Fault> {
        self.0.lock().unwrap().push(job.lane);
        sleep(Duration::from_millis(100)).await;
        Ok(Outcome::Done)
    }
}

impl Order {
    fn count(&self, lane: Lane, first: usize) -> usize {
        self.0.lock().unwrap().iter().take(first).filter(|guard| **guard == lane).count()
    }

    fn shares(&self, first: usize) -> [usize; 3] {
        [Lane::Interactive, Lane::Standard, Lane::Bulk].map(|lane| self.count(lane, first))
    }
}

async fn serve(jobs: &[(Lane, usize)], concurrency: u16) -> Arc<Order> {
    let (inner, stage) = (MemoryBroker::new(), Arc::new(Order::default()));
    for (lane, count) in jobs {
        for number in 0..*count {
            let job = Job { lane: *lane, ..job(&format!("{}-{number}", lane.as_str())) };
            inner.publish(&job.queue(), Message::of_job(&job, Timestamp::UNIX_EPOCH)).await.unwrap();
        }
    }
    let total = jobs.iter().map(|(_, count)| count).sum::<usize>();
    let broker: Arc<dyn Broker> = Arc::new(ReceivesAhead(inner));
    let results = ResultWriter::new(Arc::new(MemoryObjectStore::new()), Arc::clone(&broker), Clock::system(), "1.2.3");
    let config = WorkerConfig { concurrency, ..config() };
    let worker = Worker::new(Arc::clone(&stage), broker, Arc::new(results), config);
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let running = tracker.spawn(worker.run(shutdown.clone()));
    eventually("all are served", || stage.0.lock().unwrap().len() == total).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
    stage
}

/// Whether shares are the ideal ones but for the tasks of one round, in which credit finds its way.
fn are_near(shares: [usize; 3], ideal: [usize; 3]) -> bool {
    shares.into_iter().zip(ideal).all(|(share, ideal)| share.abs_diff(ideal) <= 7)
}

#[tokio::test(start_paused = true)]
async fn under_full_load_each_lane_gets_its_share() {
    for concurrency in [1, 4, 7] {
        let all = [(Lane::Bulk, 200), (Lane::Standard, 200), (Lane::Interactive, 200)];
        let stage = serve(&all, concurrency).await;
        let shares = stage.shares(130);
        assert!(are_near(shares, [80, 40, 10]), "{concurrency} at once: {shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_share_of_an_idle_lane_goes_to_the_others() {
    let stage = serve(&[(Lane::Bulk, 100), (Lane::Standard, 100)], 4).await;
    let shares = stage.shares(100);
    assert!(are_near(shares, [0, 80, 20]), "{shares:?}");
    let began = Instant::now();
    let stage = serve(&[(Lane::Bulk, 100)], 4).await;
    assert_eq!(stage.shares(100), [0, 0, 100]);
    assert!(began.elapsed() < Duration::from_secs(4), "all permits serve the one lane: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_for_all_lanes_together_and_a_retry_goes_back_to_its_own() {
    let (broker, stage) = (MemoryBroker::new(), Arc::new(Script::<Job>::default()));
    for lane in [Lane::Interactive, Lane::Standard, Lane::Bulk] {
        for number in 0..3 {
            let job = Job { lane, ..job(&format!("slow-{}-{number}", lane.as_str())) };
            broker.publish(&job.queue(), Message::of_job(&job, Timestamp::UNIX_EPOCH)).await.unwrap();
        }
    }
    let bulk = QueueName::of(StageName::Dispatcher, Lane::Bulk);
    let never = Job { lane: Lane::Bulk, ..job("never") };
    broker.publish(&bulk, Message::of_job(&never, Timestamp::UNIX_EPOCH)).await.unwrap();
    let shared: Arc<dyn Broker> = Arc::new(broker.clone());
    let results = ResultWriter::new(Arc::new(MemoryObjectStore::new()), Arc::clone(&shared), Clock::system(), "1.2.3");
    let worker = Worker::new(Arc::clone(&stage), shared, Arc::new(results), config());
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let running = tracker.spawn(worker.run(shutdown.clone()));
    eventually("it is parked", || broker.dead_letters(&bulk).len() == 1).await;
    let followed = |lane| broker.waiting(&QueueName::of(StageName::Segmenter, lane));
    eventually("all are done", || Lane::ALL.map(followed) == [3, 3, 3]).await;
    assert_eq!(stage.most_at_work.load(Ordering::SeqCst), 2);
    shutdown.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(broker.unsettled(), 0);
}

/// A worker of the dispatcher's or another stage, of all queues of this number of partitions.
fn worker_of<T: StageTask>(broker: &MemoryBroker, stage: Arc<Script<T>>, partitions: u16) -> Worker<Script<T>> {
    let shared: Arc<dyn Broker> = Arc::new(broker.clone());
    let results = ResultWriter::new(Arc::new(MemoryObjectStore::new()), Arc::clone(&shared), Clock::system(), "1.2.3");
    let config = WorkerConfig { partitions: Partitions::clamped(partitions), ..config() };
    Worker::new(stage, shared, Arc::new(results), config)
}

#[tokio::test(start_paused = true)]
async fn a_task_keeps_its_lane_and_partition_whatever_becomes_of_it() {
    let (broker, stage) = (MemoryBroker::new(), Arc::new(Script::<Job>::default()));
    let worker = worker_of(&broker, Arc::clone(&stage), 8);
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let running = tracker.spawn(worker.run(shutdown.clone()));
    let partition = Partitions::clamped(8).all().nth(5).unwrap();
    let queue = QueueName::in_partition(StageName::Dispatcher, Lane::Bulk, partition);
    for id in ["one", "flaky", "never"] {
        // Its own lane is another one: the queue decides.
        let job = Job { tenant: Some("somebody".to_owned()), ..job(id) };
        broker.publish(&queue, Message::of_job(&job, Timestamp::UNIX_EPOCH)).await.unwrap();
    }
    eventually("it is parked", || broker.dead_letters(&queue).len() == 1).await;
    assert_eq!((stage.tries("flaky"), stage.tries("never")), (3, 4), "a retry comes back to a queue that is consumed");
    let next = QueueName::in_partition(StageName::Segmenter, Lane::Bulk, partition);
    assert_eq!(next.as_str(), "echogen.segment.bulk.5");
    eventually("both go on", || broker.waiting(&next) == 2).await;
    let letter = &broker.dead_letters(&queue)[0];
    assert_eq!(letter.headers[DEAD_LETTER_QUEUE], queue.as_str(), "a redrive finds its way back");
    assert_eq!(queue.dead_letters().as_str(), "echogen.dispatch.bulk.dead");
    shutdown.cancel();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_version_left_in_the_queue_of_all_lanes_is_drained() {
    let (broker, stage) = (MemoryBroker::new(), Arc::new(Script::<EncodeTask>::default()));
    let before = StageName::Encoder.unsplit().unwrap();
    for lane in Lane::ALL {
        for wait in [0, 3] {
            let job = Job { lane, ..job(&format!("{lane}-{wait}")) };
            let cut_out = CutOut { image: ContentHash::of(b"dog"), area: SubjectArea::Whole };
            let task = EncodeTask::new(job, cut_out, Progress::default());
            let message = Message::of_task(&task, &TaskHeaders::default());
            broker.publish_after(&before, message, Duration::from_secs(wait)).await.unwrap();
        }
    }
    let worker = worker_of(&broker, Arc::clone(&stage), 8);
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let running = tracker.spawn(worker.run(shutdown.clone()));
    let followed = |lane| broker.waiting(&QueueName::of(StageName::Segmenter, lane));
    eventually("each goes on in its job's lane, also from a retry", || Lane::ALL.map(followed) == [2, 2, 2]).await;
    eventually("nothing is left", || broker.waiting(&before) == 0 && broker.unsettled() == 0).await;
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
