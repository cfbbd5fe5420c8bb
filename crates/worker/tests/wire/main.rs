//! Messages of other versions: yesterday's and tomorrow's.
//!
//! `tests/fixtures/wire/` holds one message of each kind as commit bd64eca wrote it, whose readers refused every field that
//! they did not know. So whoever reads these samples can be upgraded after its senders, and whoever writes the same bytes
//! before its readers: services can be upgraded in any order. A sample is never changed; a new kind of message, or a new
//! field, gets a sample of its own.
//!
//! Version 0.1.0 stored cut-outs and named them in `encode-task` and `sample-task`. These samples are read, and no longer
//! written.

mod content;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use echogen_ports::{Broker, Fault, MemoryBroker, MemoryObjectStore, Message};
use echogen_protocol::{
    EncodeTask, Job, JobEvent, JobResult, Lane, NotifyTask, QueueName, SampleTask, SegmentTask, Segmentation,
    StageTask, TaskHeaders,
};
use echogen_worker::{Clock, JobState, Outcome, ResultWriter, Stage, StageContext, Worker, WorkerConfig};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

fn sample(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/wire");
    std::fs::read(folder.join(format!("{name}.json"))).expect("the sample is readable")
}

/// Maps whose names the client or the stages choose, and the data of an event: there is no unknown field in those.
const OPEN: [&str; 5] = ["metadata", "timings", "cached", "models", "data"];

/// Adds to each object in the sample what a later version may: fields of all shapes.
fn of_tomorrow(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields
                .iter_mut()
                .filter(|(name, _)| !OPEN.contains(&name.as_str()))
                .for_each(|(_, value)| of_tomorrow(value));
            fields.insert("tomorrows_list".to_owned(), json!([1, { "a": null }]));
            fields.insert("a_word_of_tomorrow".to_owned(), json!("word"));
        }
        Value::Array(items) => items.iter_mut().for_each(of_tomorrow),
        _ => {}
    }
}

/// The sample of yesterday is read, what is read is written as yesterday did, and the sample of tomorrow is read alike.
#[track_caller]
fn check<T: PartialEq + std::fmt::Debug>(name: &str, content: &T, write: fn(&T) -> Vec<u8>, read: fn(&[u8]) -> T) {
    check_reading(name, content, read);
    let (written, text) = (write(content), String::from_utf8_lossy(&sample(name)).into_owned());
    assert_eq!(String::from_utf8(written).expect("JSON is text"), text, "{name} for readers of yesterday");
}

/// The sample of yesterday is read, and the sample of tomorrow is read alike.
#[track_caller]
fn check_reading<T: PartialEq + std::fmt::Debug>(name: &str, content: &T, read: fn(&[u8]) -> T) {
    let sample = sample(name);
    assert_eq!(read(&sample), *content, "{name} of yesterday");
    let mut later: Value = serde_json::from_slice(&sample).expect("the sample is JSON");
    of_tomorrow(&mut later);
    assert_eq!(read(later.to_string().as_bytes()), *content, "{name} of tomorrow");
}

fn read<T: DeserializeOwned>(json: &[u8]) -> T {
    serde_json::from_slice(json).expect("it is read")
}

fn task<T: StageTask>(json: &[u8]) -> T {
    T::parse(json).expect("it is a task")
}

fn compact<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("it is written")
}

fn pretty<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("it is written")
}

#[test]
fn tasks_are_read_and_written_across_versions() {
    check("segment-task", &content::segment_task(), SegmentTask::to_json, task);
    check_reading("encode-task", &content::encode_task(), task);
    check("encode-task-of-pixels", &content::encode_task_of_pixels(), EncodeTask::to_json, task);
    check_reading("sample-task", &content::sample_task(), task);
    check("sample-task-of-pixels", &content::sample_task_of_pixels(), SampleTask::to_json, task);
    check("notify-task", &content::notify_task(), NotifyTask::to_json, task);
    // Its readers came later than those of all others.
    check("notify-task-of-all", &content::notify_task_of_all(), NotifyTask::to_json, task);
    check("notify-task-of-tenant", &content::notify_task_of_tenant(), NotifyTask::to_json, task);
}

#[test]
fn records_results_and_states_are_read_and_written_across_versions() {
    // The one of yesterday has a key of its own, which nobody looks up any more.
    check("segmentation-of-pixels", &content::segmentation(), compact::<Segmentation>, read);
    assert!(serde_json::from_slice::<Segmentation>(&sample("segmentation")).is_err());
    check("result-completed", &content::completed(), pretty::<JobResult>, read);
    check("result-withheld", &content::completed_behind_a_gate(), pretty::<JobResult>, read);
    check("result-failed", &content::failed(), pretty::<JobResult>, read);
    check("event", &content::event(), compact::<JobEvent>, read);
    check("job-state", &content::job_state(), compact::<JobState>, read);
    check("job-state-again", &content::repeated_state(), compact::<JobState>, read);
    check("job-state-sampling", &content::sampling_state(), compact::<JobState>, read);
}

#[test]
fn headers_are_read_and_written_across_versions() {
    let mut map = read(&sample("headers"));
    assert_eq!(TaskHeaders::from_map(&map), content::headers());
    assert_eq!(content::headers().to_map(), map);
    map.insert("echogen-of-tomorrow".to_owned(), "word".to_owned());
    assert_eq!(TaskHeaders::from_map(&map), content::headers());
    let settings = Some("detector=ab threshold 0.3".to_owned());
    let later = TaskHeaders { settings, ..TaskHeaders::default() };
    assert_eq!(later.to_map(), read(&sample("headers-settings")), "a header that came later");
    // As compact as all samples, so that a new header shows as a difference.
    let later: BTreeMap<String, String> = content::later_headers().to_map().into_iter().collect();
    assert_eq!(
        String::from_utf8(compact(&later)),
        String::from_utf8(sample("headers-later")),
        "headers that came later"
    );
    assert_eq!(TaskHeaders::from_map(&later), content::later_headers());
}

#[test]
fn a_clients_job_is_read_as_ever_and_as_strictly() {
    let jobs =
        [("job", content::job()), ("job-least", content::least_job()), ("job-previews", content::previewed_job())];
    let jobs = jobs.into_iter().chain([("job-again", content::repeated_job())]);
    for (name, job) in jobs {
        let sample = sample(name);
        assert_eq!(<Job as StageTask>::parse(&sample).as_ref(), Ok(&job));
        assert_eq!(job.to_json(), sample, "{name}");
        let mut later: Value = read(&sample);
        of_tomorrow(&mut later);
        let error = Job::parse(later.to_string().as_bytes()).expect_err("a client is told of what nobody knows");
        assert!(error.to_string().contains("unknown field"), "{error}");
        for inside in ["subject", "output", "guidance", "seeds"] {
            let mut later: Value = read(&sample);
            let Some(fields) = later.get_mut(inside).and_then(Value::as_object_mut) else { continue };
            fields.insert("a_word_of_tomorrow".to_owned(), json!("word"));
            let error = Job::parse(later.to_string().as_bytes()).expect_err("in every part of it");
            assert!(error.to_string().starts_with(&format!("{inside}: unknown field")), "{error}");
        }
    }
}

/// Notes what it is given, and hands it on as it is.
struct Relay<T>(Mutex<Vec<T>>);

#[async_trait]
impl<T: StageTask> Stage for Relay<T> {
    type Task = T;

    async fn run(&self, task: T, _: &StageContext) -> Result<Outcome, Fault> {
        self.0.lock().expect("no panic").push(task.clone());
        // A task of the stage itself goes back into its own queue; once is enough.
        let is_first = self.0.lock().expect("no panic").len() == 1;
        Ok(if is_first { Outcome::next(&task) } else { Outcome::Done })
    }
}

/// Sends the sample, with what tomorrow adds, through a worker, and takes in what the worker hands on.
async fn relayed<T: StageTask>(name: &str) -> Vec<T> {
    let (broker, stage) = (Arc::new(MemoryBroker::new()), Arc::new(Relay(Mutex::default())));
    let mut later: Value = read(&sample(name));
    of_tomorrow(&mut later);
    let mut headers: BTreeMap<String, String> = read(&sample("headers"));
    headers.insert("echogen-of-tomorrow".to_owned(), "word".to_owned());
    let message = Message { body: later.to_string().into(), headers };
    broker.publish(&QueueName::of(T::STAGE, Lane::default()), message).await.expect("the twin takes it");
    let clock = Clock::fixed(jiff::Timestamp::UNIX_EPOCH);
    let results = ResultWriter::new(Arc::new(MemoryObjectStore::new()), broker.clone(), clock.clone(), "1.2.3");
    let worker = Worker::new(stage.clone(), broker.clone(), Arc::new(results), WorkerConfig::default());
    let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
    let running = tracker.spawn(worker.with_clock(clock).run(shutdown.clone()));
    echogen_testkit::eventually("both have run", || stage.0.lock().expect("no panic").len() == 2).await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    shutdown.cancel();
    running.await.expect("no panic").expect("it ends in good order");
    assert_eq!(broker.unsettled(), 0);
    assert!(broker.dead_letters(&QueueName::of(T::STAGE, Lane::default())).is_empty(), "nothing is parked");
    std::mem::take(&mut *stage.0.lock().expect("no panic"))
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_today_takes_tasks_of_tomorrow_and_hands_on_todays() {
    let segment = relayed::<SegmentTask>("segment-task").await;
    assert_eq!(segment, [content::segment_task(), content::segment_task()]);
    assert_eq!(relayed::<EncodeTask>("encode-task").await, [content::encode_task(), content::encode_task()]);
    let encode = content::encode_task_of_pixels();
    assert_eq!(relayed::<EncodeTask>("encode-task-of-pixels").await, [encode.clone(), encode]);
    assert_eq!(relayed::<SampleTask>("sample-task").await, [content::sample_task(), content::sample_task()]);
    assert_eq!(relayed::<NotifyTask>("notify-task").await, [content::notify_task(), content::notify_task()]);
}
