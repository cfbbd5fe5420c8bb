//! Notifications: replies, traces, the job status store, and that no task waits for them.

use bytes::Bytes;
use echogen_ports::{Event, EventStream, MemoryCache};
use echogen_protocol::{EventKind, JobEvent, ReplyTo, TraceContext};

use super::*;
use crate::JobStatusStore;

fn reply_to() -> ReplyTo {
    ReplyTo { queue: "answers".to_owned(), correlation_id: Some("7".to_owned()) }
}

fn with_headers(id: &str, headers: &TaskHeaders) -> Message {
    Message::of_task(&job(id), headers)
}

async fn told(events: &mut Box<dyn EventStream>) -> JobEvent {
    timeout(Duration::from_secs(60), events.next()).await.expect("an event comes").unwrap().to_job().unwrap()
}

/// Everything published so far.
fn all_told(events: &mut Box<dyn EventStream>) -> Vec<JobEvent> {
    use futures::FutureExt;
    std::iter::from_fn(|| events.next().now_or_never().flatten()).filter_map(|event| event.to_job()).collect()
}

async fn next_headers(bench: &Bench) -> TaskHeaders {
    let mut consumer = bench.broker.consume(&next_queue(), 1).await.unwrap();
    let delivery = consumer.receive().await.unwrap().unwrap();
    let headers = TaskHeaders::from_map(&delivery.message.headers);
    delivery.ack().await.unwrap();
    headers
}

#[tokio::test(start_paused = true)]
async fn who_asked_is_answered_once_and_listeners_are_told_once() {
    let bench = Bench::plain();
    let mut answers = bench.broker.consume(&QueueName("answers".to_owned()), 10).await.unwrap();
    assert!(timeout(Duration::ZERO, answers.receive()).await.is_err(), "the queue stands");
    let mut events = bench.broker.subscribe("job.failed").await.unwrap();
    let headers = TaskHeaders { reply_to: Some(reply_to()), ..TaskHeaders::default() };
    bench.broker.publish(&queue(), with_headers("wrong", &headers)).await.unwrap();
    bench.idle().await;
    let answer = timeout(Duration::from_secs(5), answers.receive()).await.expect("an answer comes").unwrap().unwrap();
    assert_eq!(answer.message.headers[ReplyTo::CORRELATION_HEADER], "7");
    let event: JobEvent = serde_json::from_slice(&answer.message.body).unwrap();
    assert_eq!((event.kind, event.subject.as_str()), (EventKind::Failed, "wrong"));
    answer.ack().await.unwrap();
    assert!(timeout(Duration::from_secs(60), answers.receive()).await.is_err(), "one answer is enough");
    assert_eq!(all_told(&mut events).len(), 1, "one event is told once");
    bench.stop().await;
}

/// The answers to messages with these bodies, one for each: its kind and its correlation id.
async fn answers_to(bench: &Bench, queue: QueueName, bodies: &[&'static [u8]]) -> Vec<(EventKind, String)> {
    let mut answers = bench.broker.consume(&QueueName("answers".to_owned()), 10).await.unwrap();
    assert!(timeout(Duration::ZERO, answers.receive()).await.is_err(), "the queue stands");
    for (number, body) in bodies.iter().enumerate() {
        let reply_to = ReplyTo { correlation_id: Some(number.to_string()), ..reply_to() };
        let headers = TaskHeaders { reply_to: Some(reply_to), ..TaskHeaders::default() };
        let message = Message { body: Bytes::from_static(body), headers: headers.to_map() };
        bench.broker.publish(&queue, message).await.unwrap();
    }
    let mut all = Vec::new();
    while let Ok(answer) = timeout(Duration::from_secs(3_600), answers.receive()).await {
        let answer = answer.unwrap().unwrap();
        let event: JobEvent = serde_json::from_slice(&answer.message.body).unwrap();
        all.push((event.kind, answer.message.headers[ReplyTo::CORRELATION_HEADER].clone()));
        answer.ack().await.unwrap();
    }
    all.sort_by(|(_, one), (_, other)| one.cmp(other));
    all
}

#[tokio::test(start_paused = true)]
async fn whatever_a_message_contains_it_is_answered_once() {
    let bench = Bench::plain();
    let bodies: &[&[u8]] = &[
        b"",
        b"null",
        b"[1]",
        b"{\"id\":\"cut",
        b"\x1f\x8b\x08gzip",
        b"\xff\xfe{\x00}\x00",
        br#"{"id":"barred","subject":{"image":"dog.png"},"prompt":"a dog"}"#,
        br#"{"id":"one","promt":"a dog"}"#,
        br#"{"id":"never","subject":{"image":"dog.png"},"prompt":"a dog"}"#,
    ];
    let answers = answers_to(&bench, queue(), bodies).await;
    let mut kinds = vec![EventKind::Parked; bodies.len()];
    kinds[7] = EventKind::Failed;
    let expected: Vec<_> = kinds.into_iter().enumerate().map(|(number, kind)| (kind, number.to_string())).collect();
    assert_eq!(answers, expected);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_took_out_of_its_queue_is_answered_too() {
    let returned = StageName::Dispatcher.returned().unwrap();
    let bench = Bench::on(returned.clone());
    let job = br#"{"id":"one","subject":{"image":"dog.png"},"prompt":"a dog"}"#;
    let answers = answers_to(&bench, returned.clone(), &[job, b"null"]).await;
    assert_eq!(answers, [(EventKind::Expired, "0".to_owned()), (EventKind::Parked, "1".to_owned())]);
    assert_eq!(bench.result("one").await.unwrap().status, JobStatus::Expired);
    let mut poison = with_headers("poison", &TaskHeaders { reply_to: Some(reply_to()), ..TaskHeaders::default() });
    poison.headers.insert(DEAD_LETTER_REASON.to_owned(), "it may kill its worker".to_owned());
    bench.broker.publish(&returned, poison).await.unwrap();
    let dead = |lane| bench.broker.dead_letters(&QueueName::of(StageName::Dispatcher, lane)).len();
    eventually("both are among those of their lanes", || Lane::ALL.map(dead).iter().sum::<usize>() == 2).await;
    assert_eq!(bench.stage.tries("poison"), 0);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_circuit_to_close_is_no_attempt() {
    let bench = Bench::plain();
    bench.send("open").await;
    bench.idle().await;
    assert_eq!((bench.stage.tries("open"), bench.followed()), (9, 1), "four would be too many attempts");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn whom_to_answer_travels_with_the_next_task_and_with_another_try() {
    let bench = Bench::plain();
    let headers = TaskHeaders { reply_to: Some(reply_to()), ..TaskHeaders::default() };
    for id in ["one", "flaky"] {
        bench.broker.publish(&queue(), with_headers(id, &headers)).await.unwrap();
        bench.idle().await;
        assert_eq!(next_headers(&bench).await.reply_to, Some(reply_to()), "{id}");
    }
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_senders_settings_reach_the_stage_stay_over_retries_and_end_there() {
    let bench = Bench::plain();
    let headers = TaskHeaders { settings: Some("threshold 0.5".to_owned()), ..TaskHeaders::default() };
    for id in ["flaky", "never"] {
        bench.broker.publish(&queue(), with_headers(id, &headers)).await.unwrap();
    }
    bench.idle().await;
    assert_eq!(bench.stage.settings.lock().unwrap()[..], vec![Some("threshold 0.5".to_owned()); 7], "of every try");
    assert_eq!(next_headers(&bench).await.settings, None, "the next stage's are the script's to say, and it says none");
    let dead = TaskHeaders::from_map(&bench.broker.dead_letters(&queue())[0].headers);
    assert_eq!(dead.settings, headers.settings, "it can be sent again as it is");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_trace_goes_on_with_a_span_of_its_own_for_every_try() {
    let bench = Bench::plain();
    let mut events = bench.broker.subscribe("job.retrying").await.unwrap();
    let trace = TraceContext::new(0xabc, 0xdef);
    let headers = TaskHeaders { traceparent: Some(trace), ..TaskHeaders::default() };
    bench.broker.publish(&queue(), with_headers("flaky", &headers)).await.unwrap();
    bench.idle().await;
    let mut spans = vec![next_headers(&bench).await.traceparent.unwrap()];
    for _ in 0..2 {
        spans.push(told(&mut events).await.traceparent.unwrap());
    }
    assert!(spans.iter().all(|span| span.trace_id() == trace.trace_id()));
    spans.push(trace);
    let distinct: std::collections::HashSet<_> = spans.iter().map(|span| span.span_id()).collect();
    assert_eq!(distinct.len(), 4, "each try is a span, and none is the sender's");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn every_task_of_a_job_says_when_the_job_came_in() {
    let bench = Bench::plain();
    let came: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let headers = TaskHeaders { first_seen: Some(came), ..TaskHeaders::default() };
    bench.broker.publish(&queue(), with_headers("flaky", &headers)).await.unwrap();
    bench.idle().await;
    let next = next_headers(&bench).await;
    assert_eq!(next.accepted, Some(came), "a retry does not begin anew");
    assert_ne!(next.first_seen, Some(came), "the next task has a time of its own");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_trace_or_with_a_broken_one_gets_one_and_keeps_it() {
    let bench = Bench::plain();
    let mut events = bench.broker.subscribe("job.retrying").await.unwrap();
    let mut message = with_headers("flaky", &TaskHeaders::default());
    message.headers.insert("traceparent".to_owned(), "00-xyz-1-01".to_owned());
    bench.broker.publish(&queue(), message).await.unwrap();
    bench.idle().await;
    let trace = next_headers(&bench).await.traceparent.unwrap();
    assert!(trace.is_sampled());
    assert_eq!(told(&mut events).await.traceparent.unwrap().trace_id(), trace.trace_id(), "from the first try on");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_status_store_shows_where_a_job_stands_and_where_its_result_belongs() {
    let (tracker, cache) = (TaskTracker::new(), Arc::new(MemoryCache::new(100_000)));
    let status_store = JobStatusStore::start(cache, &tracker);
    let bench = Bench::with_status(|broker| Arc::new(broker), 0, Some(status_store.clone()));
    let mut odd = job("never");
    odd.output.destination = Some("dogs".to_owned());
    let headers = TaskHeaders { reply_to: Some(reply_to()), ..TaskHeaders::default() };
    bench.broker.publish(&queue(), Message::of_task(&odd, &headers)).await.unwrap();
    let stage = Arc::clone(&bench.stage);
    eventually("it has been tried twice", || stage.tries("never") == 2).await;
    let state = status_store.find(&odd.id).await.unwrap().unwrap();
    assert_eq!((state.state, state.stage.as_deref(), state.attempt), (EventKind::Retrying, Some("dispatcher"), 2));
    assert_eq!((state.result_key.as_str(), state.reply_to), ("dogs/never/result.json", Some(reply_to())));
    assert_eq!(state.trace_id.map(|id| id.len()), Some(32));
    bench.idle().await;
    assert_eq!(status_store.find(&odd.id).await.unwrap().unwrap().state, EventKind::Parked);
    bench.send("wrong").await;
    bench.idle().await;
    eventually("the end is noted", || {
        use futures::FutureExt;
        let found = status_store.find(&job("wrong").id).now_or_never();
        found.unwrap().unwrap().is_some_and(|state| state.state == EventKind::Failed)
    })
    .await;
    bench.stop().await;
}

/// A broker that takes twenty seconds over every event.
#[derive(Debug)]
struct SlowEvents(MemoryBroker);

#[async_trait]
impl Broker for SlowEvents {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.0.publish(queue, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.0.publish_after(queue, message, delay).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        self.0.dead_letter(queue, message, reason).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        self.0.consume(queue, prefetch).await
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        sleep(Duration::from_secs(20)).await;
        self.0.publish_event(event).await
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        self.0.subscribe(prefix).await
    }
}

#[tokio::test(start_paused = true)]
async fn no_task_waits_for_a_courtesy_but_a_jobs_end_is_notified_before_the_ack() {
    let bench = Bench::start(|broker| Arc::new(SlowEvents(broker)), 0);
    let began = Instant::now();
    bench.send("flaky").await;
    bench.idle().await;
    assert_eq!(bench.followed(), 1);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let mut events = bench.broker.subscribe("job.failed").await.unwrap();
    bench.send("wrong").await;
    bench.idle().await;
    assert_eq!(all_told(&mut events).len(), 1, "told by the time the task is settled");
    bench.stop().await;
}
