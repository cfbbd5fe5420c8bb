//! One task kills its worker, again and again; the others must not pay for it.

use std::collections::BTreeSet;

use echogen_ports::MemoryCache;
use echogen_testkit::ReceivesAhead;
use tokio::sync::Notify;

use super::*;
use crate::JobStatusStore;

/// Good tasks take a while; a poisoned one has its worker killed.
#[derive(Debug, Default)]
struct Deadly {
    killed: Notify,
    state: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    at_work: usize,
    lone_at_work: usize,
    /// Tasks that shared their work with one that had to be alone.
    disturbed: usize,
    deaths: u32,
}

/// Counts a task at work, also until it is dropped.
struct AtWork<'a>(&'a Deadly, bool);

impl<'a> AtWork<'a> {
    fn begin(stage: &'a Deadly, alone: bool) -> Self {
        let mut work = stage.state.lock().unwrap();
        work.at_work += 1;
        work.lone_at_work += usize::from(alone);
        work.disturbed += usize::from(work.lone_at_work > 0 && work.at_work > 1);
        Self(stage, alone)
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        let mut work = self.0.state.lock().unwrap();
        work.at_work -= 1;
        work.lone_at_work -= usize::from(self.1);
    }
}

#[async_trait]
impl Stage for Deadly {
    type Task = Job;

    async fn run(&self, job: Job, context: &StageContext) -> Result<Outcome, Fault> {
        let _at_work = AtWork::begin(self, context.alone);
        sleep(Duration::from_millis(if job.id.as_str().starts_with("poison") { 50 } else { 200 })).await;
        if job.id.as_str().starts_with("poison") {
            self.state.lock().unwrap().deaths += 1;
            self.killed.notify_one();
            std::future::pending::<()>().await;
        }
        Ok(next(job))
    }
}

struct Outbreak {
    inner: MemoryBroker,
    broker: Arc<dyn Broker>,
    stage: Arc<Deadly>,
    status_store: Option<JobStatusStore>,
    config: WorkerConfig,
}

impl Outbreak {
    /// Thirty good jobs and the poisoned ones among them.
    async fn new(poisoned: &[usize], wrap: impl FnOnce(MemoryBroker) -> Arc<dyn Broker>, has_board: bool) -> Self {
        let inner = MemoryBroker::new();
        for index in 0..30 + poisoned.len() {
            let id = if poisoned.contains(&index) { format!("poison-{index}") } else { format!("good-{index}") };
            inner.publish(&queue(), Message::of_job(&job(&id), Timestamp::UNIX_EPOCH)).await.unwrap();
        }
        let cache = Arc::new(MemoryCache::new(100_000));
        let status_store = has_board.then(|| JobStatusStore::start(cache, &TaskTracker::new()));
        let config = WorkerConfig { concurrency: 8, max_redeliveries: 20, ..config() };
        Self { broker: wrap(inner.clone()), inner, stage: Arc::default(), status_store, config }
    }

    /// Starts a worker as often as one is killed, until nothing is left to do.
    async fn run(&self) {
        let idle = || self.inner.waiting(&queue()) == 0 && self.inner.unsettled() == 0;
        loop {
            let (store, clock) = (Arc::new(MemoryObjectStore::new()), Clock::system());
            let results = Arc::new(ResultWriter::new(store, Arc::clone(&self.broker), clock, "1.2.3"));
            let (stage, broker) = (Arc::clone(&self.stage), Arc::clone(&self.broker));
            let mut worker = Worker::new(stage, broker, results, self.config.clone()).on_queue(queue());
            if let Some(status_store) = &self.status_store {
                worker = worker.with_status_store(status_store.clone());
            }
            select! {
                biased;
                // The worker is dropped in the midst of whatever it does.
                () = self.stage.killed.notified() => {}
                ended = worker.run(CancellationToken::new()) => ended.unwrap(),
                () = eventually("all tasks are settled", idle) => return,
            }
        }
    }

    fn ids<T: StageTask>(messages: &[Message]) -> BTreeSet<String> {
        messages.iter().map(|message| T::parse(&message.body).unwrap().job_id().0.clone()).collect()
    }

    async fn completed(&self) -> BTreeSet<String> {
        let mut consumer = self.inner.consume(&next_queue(), u16::MAX).await.unwrap();
        let mut messages = Vec::new();
        while let Ok(received) = timeout(Duration::from_secs(1), consumer.receive()).await {
            let delivery = received.unwrap().unwrap();
            messages.push(delivery.message.clone());
            delivery.ack().await.unwrap();
        }
        Self::ids::<SegmentTask>(&messages)
    }

    #[track_caller]
    fn check(&self, poisoned: usize, completed: &BTreeSet<String>) {
        let dead = Self::ids::<Job>(&self.inner.dead_letters(&queue()));
        assert!(dead.iter().all(|id| id.starts_with("poison")), "good jobs among the dead letters: {dead:?}");
        assert_eq!(dead.len(), poisoned);
        assert_eq!(completed.len(), 30, "{completed:?}");
        let work = self.stage.state.lock().unwrap();
        assert_eq!(work.disturbed, 0, "what came back runs alone");
    }
}

#[tokio::test(start_paused = true)]
async fn one_poisoned_job_among_thirty_is_parked_and_no_other() {
    let outbreak = Outbreak::new(&[5], |broker| Arc::new(ReceivesAhead(broker)), true).await;
    outbreak.run().await;
    outbreak.check(1, &outbreak.completed().await);
    let deaths = outbreak.stage.state.lock().unwrap().deaths;
    assert_eq!(deaths, 5, "twice in company, three times alone");
    let dead = outbreak.inner.dead_letters(&queue());
    assert_eq!(dead[0].headers[DEAD_LETTER_REASON], "it took its worker down 3 times while it ran alone");
    let headers = TaskHeaders::from_map(&dead[0].headers);
    assert_eq!((headers.stage.as_deref(), headers.first_seen), (Some("dispatcher"), Some(Timestamp::UNIX_EPOCH)));
    assert!(headers.redeliveries >= 5, "{}", headers.redeliveries);
}

#[tokio::test(start_paused = true)]
async fn wherever_it_is_and_with_others_of_its_kind() {
    for poisoned in [&[0][..], &[30], &[0, 1], &[3, 4, 20]] {
        let outbreak = Outbreak::new(poisoned, |broker| Arc::new(ReceivesAhead(broker)), true).await;
        outbreak.run().await;
        outbreak.check(poisoned.len(), &outbreak.completed().await);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_cache_the_brokers_count_is_the_bound() {
    let mut outbreak = Outbreak::new(&[5], |broker| Arc::new(broker), false).await;
    outbreak.config.max_redeliveries = 3;
    outbreak.run().await;
    outbreak.check(1, &outbreak.completed().await);
    let reason = outbreak.inner.dead_letters(&queue())[0].headers[DEAD_LETTER_REASON].clone();
    assert!(reason.starts_with("handed out 4 times"), "{reason}");
}
