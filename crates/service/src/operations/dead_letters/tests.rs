//! Runs over both brokers, with a worker that parks every task again at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use echogen_adapters::amqp::{AmqpBroker, AmqpConfig};
use echogen_ports::{Broker, Browse, Consumer, DEAD_LETTER_REASON, DEAD_LETTER_TIME, MemoryBroker, Message};
use echogen_protocol::{QueueName, StageName, TaskHeaders};
use echogen_testkit::{CutProxy, RabbitMq, eventually};
use jiff::{SignedDuration, Timestamp};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;

const REASONS: [&str; 3] = ["the store is full", "Unreadable: no JSON", "4 tries failed, the last one: 503"];

/// Bodies of tasks, by queue, in the order of their arrival.
type Arrived = Arc<Mutex<Vec<(QueueName, String)>>>;

fn queues() -> Vec<QueueName> {
    StageName::ALL.into_iter().flat_map(StageName::dead_lettered).collect()
}

fn sampler() -> QueueName {
    QueueName("echogen.sample".to_owned())
}

/// A letter as it is parked.
#[derive(Clone, Debug, PartialEq)]
struct Parked {
    queue: QueueName,
    body: String,
    job: String,
    reason: &'static str,
    hours: i64,
}

impl Parked {
    fn numbered(number: usize) -> Self {
        let job = format!("job-{number}");
        Self { queue: sampler(), body: number.to_string(), job, reason: REASONS[0], hours: 0 }
    }

    async fn park(&self, broker: &dyn Browse) {
        let since = Timestamp::now() - SignedDuration::from_hours(self.hours);
        let headers = TaskHeaders { failures: 4, job: Some(self.job.clone()), ..TaskHeaders::default() };
        let message = Message { body: self.body.clone().into(), headers: headers.to_map() };
        let mut message = message.parked(&self.queue, self.reason);
        message.headers.insert(DEAD_LETTER_TIME.to_owned(), since.to_string());
        broker.publish(&self.queue.dead_letters(), message).await.unwrap();
    }
}

async fn park(broker: &dyn Browse, letters: &[Parked]) {
    futures::future::join_all(letters.iter().map(|letter| letter.park(broker))).await;
    for queue in queues() {
        let expected = letters.iter().filter(|letter| letter.queue == queue).count();
        depth_becomes(broker, &queue, expected).await;
    }
}

async fn depth_becomes(broker: &dyn Browse, queue: &QueueName, expected: usize) {
    let is_so = async {
        while broker.depth(&queue.dead_letters()).await.unwrap() != u64::try_from(expected).unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), is_so).await;
    assert!(waited.is_ok(), "{queue} has {:?}, not {expected}", broker.depth(&queue.dead_letters()).await);
}

/// Workers that park every task again at once. They end with the tracker's token.
struct Workers {
    arrived: Arrived,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Workers {
    async fn start<B: Broker + Clone + 'static>(broker: &B) -> Self {
        let workers = Self { arrived: Arc::default(), stop: CancellationToken::new(), tracker: TaskTracker::new() };
        for queue in queues() {
            let (broker, arrived) = (broker.clone(), Arc::clone(&workers.arrived));
            let consumer = broker.consume(&queue, 1).await.unwrap();
            let work = work(broker, queue, consumer, arrived);
            let stop = workers.stop.clone();
            workers.tracker.spawn(async move { stop.run_until_cancelled(work).await });
        }
        workers
    }

    fn bodies(&self) -> Vec<String> {
        self.arrived.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

async fn work<B: Broker>(broker: B, queue: QueueName, mut consumer: Box<dyn Consumer>, arrived: Arrived) {
    while let Ok(Some(delivery)) = consumer.receive().await {
        let headers = TaskHeaders::from_map(&delivery.message.headers);
        assert_eq!((headers.failures, delivery.message.headers.get(DEAD_LETTER_REASON)), (0, None), "it begins anew");
        let body = String::from_utf8_lossy(&delivery.message.body).into_owned();
        arrived.lock().unwrap().push((queue.clone(), body));
        broker.dead_letter(&queue, delivery.message.clone(), "again").await.unwrap();
        delivery.ack().await.unwrap();
    }
}

async fn rabbit() -> AmqpBroker {
    let config = AmqpConfig { prefix: RabbitMq::fresh_prefix(), ..AmqpConfig::at(RabbitMq::shared().await.amqp_url()) };
    AmqpBroker::connect(config).await.unwrap()
}

async fn run(broker: &dyn Browse, action: Action, chosen: &Chosen) -> Outcome {
    let (limit, stop) = (Duration::from_secs(120), CancellationToken::new());
    tokio::time::timeout(limit, act(broker, action, chosen, &stop, |_| ())).await.expect("a run ends").unwrap()
}

async fn bodies(broker: &dyn Browse, queue: &QueueName) -> Vec<String> {
    let mut browser = broker.browse(&queue.dead_letters(), u64::MAX).await.unwrap();
    let mut bodies = Vec::new();
    while let Some(browsed) = browser.next().await.unwrap() {
        bodies.push(String::from_utf8_lossy(&browsed.message.body).into_owned());
    }
    browser.close().await.unwrap();
    bodies
}

/// A sequence of numbers that looks random: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }
}

fn letters(numbers: &mut Numbers) -> Vec<Parked> {
    let queues = queues();
    let letter = |number: usize, numbers: &mut Numbers| Parked {
        queue: queues[numbers.below(queues.len())].clone(),
        body: number.to_string(),
        job: format!("job-{}", numbers.below(6)),
        reason: REASONS[numbers.below(REASONS.len())],
        hours: i64::try_from(numbers.below(48)).unwrap(),
    };
    (0..60).map(|number| letter(number, numbers)).collect()
}

fn choice(numbers: &mut Numbers) -> Chosen {
    let queues = queues();
    let mut chosen = Chosen::default();
    for _ in 0..numbers.below(3) {
        chosen.jobs.insert(format!("job-{}", numbers.below(7)));
    }
    for _ in 0..numbers.below(3) {
        chosen.queues.insert(queues[numbers.below(queues.len())].clone());
    }
    chosen.reason = [None, Some("FULL".to_owned()), Some("unreadable".to_owned())][numbers.below(3)].clone();
    // Half an hour from the letters' ages, so that the test's own time makes no difference.
    let age = Duration::from_secs(u64::try_from(numbers.below(48) * 3_600 + 1_800).unwrap());
    chosen.older_than = (numbers.below(2) == 0).then_some(age);
    chosen.limit = (numbers.below(3) == 0).then(|| u64::try_from(numbers.below(10)).unwrap());
    chosen
}

/// Returns the letters that a choice must find, by its description.
fn expected(chosen: &Chosen, letters: &[Parked]) -> BTreeSet<String> {
    let has = |letter: &&Parked| {
        let age = u64::try_from(letter.hours * 3_600).unwrap();
        (chosen.jobs.is_empty() || chosen.jobs.contains(&letter.job))
            && (chosen.queues.is_empty() || chosen.queues.contains(&letter.queue))
            && chosen.reason.as_ref().is_none_or(|text| letter.reason.to_lowercase().contains(&text.to_lowercase()))
            && chosen.older_than.is_none_or(|limit| age >= limit.as_secs())
    };
    letters.iter().filter(has).map(|letter| letter.body.clone()).collect()
}

async fn check_choice<B: Browse + Clone + 'static>(broker: &B, seed: u64) {
    let mut numbers = Numbers(seed);
    let (letters, chosen) = (letters(&mut numbers), choice(&mut numbers));
    let action = [Action::List, Action::Redrive, Action::Delete][numbers.below(3)];
    park(broker, &letters).await;
    let found = expected(&chosen, &letters);
    let count = chosen.limit.map_or(found.len(), |limit| found.len().min(usize::try_from(limit).unwrap()));
    let workers = Workers::start(broker).await;
    let mut seen = Vec::new();
    let each = |progress: Progress<'_>| {
        if let Progress::Done(letter) = progress {
            seen.push(String::from_utf8_lossy(&letter.message.body).into_owned());
        }
    };
    let outcome = act(broker, action, &chosen, &CancellationToken::new(), each).await.unwrap();
    let context = format!("seed {seed}: {action:?} of {chosen:?}");
    assert_eq!(
        (outcome.done, outcome.refused, outcome.stopped),
        (u64::try_from(count).unwrap(), 0, false),
        "{context}"
    );
    let done: BTreeSet<String> = seen.iter().cloned().collect();
    assert!(done.len() == seen.len() && seen.len() == count && done.is_subset(&found), "{context}: {seen:?}");
    let redriven = if action == Action::Redrive { seen.clone() } else { Vec::new() };
    eventually("the workers have what was redriven", || workers.bodies().len() == redriven.len()).await;
    let arrived: BTreeSet<String> = workers.bodies().into_iter().collect();
    assert_eq!(arrived, redriven.iter().cloned().collect(), "{context}");
    for queue in queues() {
        let stays =
            |letter: &&Parked| letter.queue == queue && (action == Action::List || !done.contains(&letter.body));
        let mut stay: Vec<String> = letters.iter().filter(stays).map(|letter| letter.body.clone()).collect();
        let back = letters.iter().filter(|letter| letter.queue == queue && redriven.contains(&letter.body)).count();
        depth_becomes(broker, &queue, stay.len() + back).await;
        let mut now = bodies(broker, &queue).await;
        now.retain(|body| !redriven.contains(body));
        // Letters are parked side by side, so their order in the queue is known only as what it was before.
        stay.sort();
        now.sort();
        assert_eq!(now, stay, "{context}: {queue}");
    }
    workers.end().await;
}

#[tokio::test]
async fn what_is_chosen_is_exact_and_the_rest_stays() {
    for seed in 0..100 {
        check_choice(&MemoryBroker::new(), seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_chosen_is_exact_and_the_rest_stays_on_rabbitmq() {
    for seed in 100..112 {
        let broker = rabbit().await;
        check_choice(&broker, seed).await;
        broker.close().await;
    }
}

async fn check_once<B: Browse + Clone + 'static>(broker: &B) {
    let letters: Vec<Parked> = (0..40).map(Parked::numbered).collect();
    park(broker, &letters).await;
    let workers = Workers::start(broker).await;
    for times in 1..=2 {
        let outcome = run(broker, Action::Redrive, &Chosen::default()).await;
        assert_eq!((outcome.done, outcome.read), (40, 40));
        depth_becomes(broker, &sampler(), 40).await;
        let mut counts = BTreeMap::new();
        workers.bodies().into_iter().for_each(|body| *counts.entry(body).or_insert(0) += 1);
        assert!(counts.len() == 40 && counts.values().all(|count| *count == times), "{counts:?}");
    }
    workers.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_comes_back_is_not_taken_again() {
    check_once(&MemoryBroker::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_comes_back_is_not_taken_again_on_rabbitmq() {
    check_once(&rabbit().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_connection_ends_no_run_early() {
    let server = RabbitMq::shared().await;
    let proxy = CutProxy::start(format!("127.0.0.1:{}", server.amqp_port())).await.unwrap();
    let prefix = RabbitMq::fresh_prefix();
    let config = |url| AmqpConfig { prefix: prefix.clone(), ..AmqpConfig::at(url) };
    let direct = AmqpBroker::connect(config(server.amqp_url())).await.unwrap();
    park(&direct, &(0..50).map(Parked::numbered).collect::<Vec<_>>()).await;
    let slow = AmqpBroker::connect(config(server.amqp_url_at(proxy.port()))).await.unwrap();
    proxy.slow_down(Duration::from_millis(300));
    let one = Chosen { jobs: ["job-49".to_owned()].into(), ..Chosen::default() };
    assert_eq!(run(&slow, Action::List, &Chosen { limit: Some(40), ..Chosen::default() }).await.done, 40);
    let outcome = run(&slow, Action::Redrive, &one).await;
    assert_eq!((outcome.done, outcome.read), (1, 50));
    depth_becomes(&direct, &sampler(), 49).await;
    assert_eq!(bodies(&direct, &sampler()).await.len(), 49);
}

async fn check_many<B: Browse>(broker: &B) {
    let letters: Vec<Parked> = (0..10_020).map(Parked::numbered).collect();
    for letters in letters.chunks(500) {
        futures::future::join_all(letters.iter().map(|letter| letter.park(broker))).await;
    }
    depth_becomes(broker, &sampler(), 10_020).await;
    let last = Chosen { jobs: ["job-10019".to_owned(), "job-10003".to_owned()].into(), ..Chosen::default() };
    let outcome = run(broker, Action::Delete, &last).await;
    assert_eq!((outcome.done, outcome.read), (2, 10_020));
    depth_becomes(broker, &sampler(), 10_018).await;
    assert_eq!(run(broker, Action::Delete, &last).await.done, 0);
    depth_becomes(broker, &sampler(), 10_018).await;
}

#[tokio::test]
async fn letters_behind_ten_thousand_others_are_reached() {
    check_many(&MemoryBroker::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_behind_ten_thousand_others_are_reached_on_rabbitmq() {
    check_many(&rabbit().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_loses_no_letter_and_doubles_one_at_most() {
    let server = RabbitMq::shared().await;
    let proxy = CutProxy::start(format!("127.0.0.1:{}", server.amqp_port())).await.unwrap();
    let prefix = RabbitMq::fresh_prefix();
    let config = |url| AmqpConfig { prefix: prefix.clone(), ..AmqpConfig::at(url) };
    let direct = AmqpBroker::connect(config(server.amqp_url())).await.unwrap();
    park(&direct, &(0..50).map(Parked::numbered).collect::<Vec<_>>()).await;
    let broker = AmqpBroker::connect(config(server.amqp_url_at(proxy.port()))).await.unwrap();
    let mut count = 0;
    let each = |progress: Progress<'_>| {
        count += u64::from(matches!(progress, Progress::Done(_)));
        if count == 20 {
            proxy.cut();
        }
    };
    let stop = CancellationToken::new();
    let interrupted = act(&broker, Action::Redrive, &Chosen::default(), &stop, each).await.unwrap_err();
    assert_eq!(interrupted.outcome.done, 20);
    let message = failure(&interrupted, Action::Redrive).message;
    assert!(message.contains("20 were redriven before"), "{message}");
    proxy.restore();
    let left = async {
        while !(30..=31).contains(&direct.depth(&sampler().dead_letters()).await.unwrap()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), left).await;
    assert!(waited.is_ok(), "{:?} are left", direct.depth(&sampler().dead_letters()).await);
    let outcome = run(&direct, Action::Redrive, &Chosen::default()).await;
    assert!((30..=31).contains(&outcome.done), "{outcome:?}");
    let mut consumer = direct.consume(&sampler(), 100).await.unwrap();
    let mut arrived = BTreeSet::new();
    while arrived.len() < 50 {
        let delivery =
            tokio::time::timeout(Duration::from_secs(30), consumer.receive()).await.unwrap().unwrap().unwrap();
        arrived.insert(String::from_utf8_lossy(&delivery.message.body).into_owned());
        delivery.ack().await.unwrap();
    }
}

#[tokio::test]
async fn a_signal_ends_a_run_with_the_count_so_far() {
    let broker = MemoryBroker::new();
    park(&broker, &(0..50).map(Parked::numbered).collect::<Vec<_>>()).await;
    let (stop, mut count) = (CancellationToken::new(), 0);
    let each = |progress: Progress<'_>| {
        count += u64::from(matches!(progress, Progress::Done(_)));
        if count == 7 {
            stop.cancel();
        }
    };
    let outcome = act(&broker, Action::Redrive, &Chosen::default(), &stop, each).await.unwrap();
    assert_eq!((outcome.done, outcome.stopped), (7, true));
    assert_eq!(bodies(&broker, &sampler()).await, (7..50).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_waited_for() {
    let server = RabbitMq::shared().await;
    let prefix = RabbitMq::fresh_prefix();
    let config = AmqpConfig { prefix, stage_max_messages: 5, ..AmqpConfig::at(server.amqp_url()) };
    let broker = AmqpBroker::connect(config).await.unwrap();
    park(&broker, &(0..60).map(Parked::numbered).collect::<Vec<_>>()).await;
    let all = Chosen::default();
    let draining = async {
        // Nobody works at first, so the queue is full.
        while broker.depth(&sampler()).await.unwrap() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut consumer = broker.consume(&sampler(), 1).await.unwrap();
        for _ in 0..60 {
            consumer.receive().await.unwrap().unwrap().ack().await.unwrap();
        }
    };
    let (outcome, ()) = tokio::join!(run(&broker, Action::Redrive, &all), draining);
    assert_eq!(outcome.done, 60);
}
