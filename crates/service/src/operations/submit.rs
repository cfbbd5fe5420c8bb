//! `echogen submit`: one job, or a file of them, to the intake queues.
//!
//! A batch has a bound on what is on its way, so its memory does not grow with the file. How far the broker has
//! confirmed every line, and which ones failed, is kept beside the file, so that the next run tries those again and
//! goes on from there; jobs are known by their ids, so a line that is sent twice is still one job.

mod note;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use echogen_ports::{Broker, EventStream, Message, ObjectKey, ObjectStore, PortError, QueueName};
use echogen_protocol::{
    ContentHash, EventKind, ImageLocation, ImageSource, Job, JobId, layout, limits::MAX_JOB_JSON_BYTES,
};
use echogen_worker::Clock;
use futures::stream::{FuturesUnordered, StreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Map, Value, json};

use self::note::{Note, Target, sample};
use super::{arguments::SubmitArguments, refused};
use crate::{
    batch::beside,
    failure::{Exit, Failure},
    job_lines::{self, JobLine, JobLines},
    report::{complain, print_json, print_line},
    sampling::job_of_line,
    session::{block_on, interrupted},
};

/// Bytes of a picture that is sent along, at most; base64 makes four of three.
const MAX_INLINE_BYTES: usize = (MAX_JOB_JSON_BYTES - 64 * 1024) / 4 * 3;

/// Tries of one line, with growing waits between them: a full queue or a restarted broker is waited for.
const TRIES: u32 = 8;

/// Lines between two notes of how far the batch is.
const NOTE_EVERY: u64 = 1_000;

/// Runs `echogen submit`.
pub(crate) fn run(arguments: &SubmitArguments, as_json: bool) -> Result<Exit, Failure> {
    arguments.sampling.check().map_err(|error| Failure::usage(error.to_string()))?;
    block_on(async {
        let broker: Arc<dyn Broker> = Arc::new(arguments.broker.connect().await?);
        let work = match &arguments.stores.store {
            Some(_) => Some(arguments.stores.stores().await?.work),
            None => None,
        };
        let sender = Sender { broker, pictures: Pictures { work } };
        match &arguments.batch {
            Some(path) => Batch::open(path, arguments).await?.send(&sender, as_json).await,
            None => one(arguments, &sender, as_json).await,
        }
    })
}

/// Sends jobs.
struct Sender {
    broker: Arc<dyn Broker>,
    pictures: Pictures,
}

/// Sends pictures along with their jobs.
struct Pictures {
    /// Where pictures go ahead of their jobs; without it they stand in the job.
    work: Option<Arc<dyn ObjectStore>>,
}

impl Pictures {
    /// A source that the dispatcher can read: files of this machine are stored or written into the job.
    async fn sent_along(&self, source: &ImageSource) -> Result<ImageSource, String> {
        let location = source.location().map_err(|error| error.to_string())?;
        let ImageLocation::File(path) = location else { return Ok(source.clone()) };
        let bytes = tokio::fs::read(path).await;
        let bytes = bytes.map_err(|error| format!("cannot read {path}: {error}; give a png, jpeg or webp file"))?;
        let Some(work) = &self.work else { return inline(path, &bytes) };
        let hash = ContentHash::of(&bytes);
        let key = ObjectKey::of_content(layout::IMAGES, &hash).map_err(|error| error.to_string())?;
        let stored = async {
            if !work.exists(&key).await? {
                work.put(&key, Bytes::from(bytes)).await?;
            }
            Ok::<(), PortError>(())
        };
        stored.await.map_err(|error| format!("cannot store {path}: {error}"))?;
        Ok(ImageSource::stored(hash))
    }
}

fn inline(path: &str, bytes: &[u8]) -> Result<ImageSource, String> {
    if bytes.len() > MAX_INLINE_BYTES {
        let size = bytes.len();
        return Err(format!(
            "{path} has {size} bytes, too many to stand in a job (limit {MAX_INLINE_BYTES}); give --store"
        ));
    }
    Ok(ImageSource(format!("data:application/octet-stream;base64,{}", BASE64_STANDARD.encode(bytes))))
}

impl Sender {
    /// Sends one job; returns once the broker has it.
    async fn send(&self, job: &Job) -> Result<(), PortError> {
        let (queue, mut waited) = (QueueName::dispatch(job.lane), Duration::from_millis(200));
        let span = tracing::info_span!("submit", job = %job.id);
        let message = in_new_trace(Message::of_job(job, Clock::system().now()), &span, "submit");
        for _ in 1..TRIES {
            match self.broker.publish(&queue, message.clone()).await {
                Err(error) if !error.is_permanent() => {
                    tracing::warn!(job = %job.id, %error, ?waited, "not sent, will try again");
                    tokio::time::sleep(waited).await;
                    waited *= 2;
                }
                ended => return ended,
            }
        }
        self.broker.publish(&queue, message).await
    }
}

/// The message under a span that begins its trace, if spans are collected; otherwise the dispatcher begins one.
pub(super) fn in_new_trace(message: Message, span: &tracing::Span, name: &'static str) -> Message {
    match echogen_telemetry::place_span(span, name, None) {
        Some(traceparent) => message.in_trace(traceparent),
        None => message,
    }
}

async fn one(arguments: &SubmitArguments, sender: &Sender, as_json: bool) -> Result<Exit, Failure> {
    let (subject, prompt) =
        (arguments.subject.clone().unwrap_or_default(), arguments.prompt.clone().unwrap_or_default());
    let mut job = Job::new(ImageSource(subject), prompt);
    job.subject.name.clone_from(&arguments.name);
    job.lane = arguments.lane.unwrap_or_default();
    job.callback.clone_from(&arguments.callback);
    arguments.sampling.apply(&mut job);
    job.subject.image = sender.pictures.sent_along(&job.subject.image).await.map_err(Failure::usage)?;
    job.id = JobId(arguments.id.clone().unwrap_or_default());
    let job = job.with_id();
    job.validate().map_err(|error| Failure::usage(error.to_string()))?;
    let listening = if arguments.wait {
        let events = sender.broker.subscribe("job").await;
        Some(events.map_err(|error| refused("events cannot be heard", &error))?)
    } else {
        None
    };
    sender.send(&job).await.map_err(|error| refused("the job was not sent", &error))?;
    if as_json {
        print_json("submitted", &json!({ "id": job.id }));
    } else {
        print_line(job.id.as_str());
    }
    match listening {
        Some(mut events) => wait_for(&mut *events, &job.id, as_json).await,
        None => Ok(Exit::Success),
    }
}

async fn wait_for(events: &mut dyn EventStream, id: &JobId, as_json: bool) -> Result<Exit, Failure> {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = interrupted() => return Ok(Exit::Interrupted),
        };
        let Some(event) = event else {
            let hint = format!("ask `echogen status {id}`");
            return Err(Failure::usage(format!("the broker is gone while the job runs; {hint}")));
        };
        let Some(event) = event.to_job().filter(|event| event.subject == *id) else { continue };
        if as_json {
            print_json("event", &event);
        }
        if event.kind.ends_job() || event.kind == EventKind::Parked {
            if !as_json {
                let why = event.data.pointer("/error/message").or_else(|| event.data.get("reason"));
                let why = why.and_then(Value::as_str).map_or_else(String::new, |why| format!(": {why}"));
                print_line(&format!("{}{why}", event.kind.as_str()));
            }
            return Ok(if event.kind == EventKind::Completed { Exit::Success } else { Exit::JobFailed });
        }
    }
}

/// A file of jobs on its way.
struct Batch {
    lines: JobLines,
    total: Option<u64>,
    /// Fields of jobs that do not have them.
    defaults: Map<String, Value>,
    folder: PathBuf,
    in_flight: usize,
    /// Where it is noted how far the batch is; none for standard input.
    note: Option<PathBuf>,
    /// How far earlier runs have come.
    before: Note,
}

/// How far a batch is.
struct Progress {
    sent: u64,
    failed: u64,
    note: Note,
}

impl Batch {
    async fn open(path: &Path, arguments: &SubmitArguments) -> Result<Self, Failure> {
        let fault = |error: std::io::Error| {
            Failure::usage(format!("cannot read the jobs file {}: {error}; give a file of JSON lines", path.display()))
        };
        let (note, target) = (Note::path_of(path), Target::of(&arguments.broker));
        let before = match &note {
            Some(note) if !arguments.restart => Note::open(note, path, target).await?,
            _ => Note::fresh(target),
        };
        Ok(Self {
            total: job_lines::count(path).await.map_err(fault)?,
            lines: JobLines::open(path).await.map_err(fault)?,
            defaults: defaults(arguments),
            folder: path.parent().unwrap_or(Path::new("")).to_owned(),
            in_flight: usize::try_from(arguments.in_flight).unwrap_or(usize::MAX),
            note,
            before,
        })
    }

    async fn send(mut self, sender: &Sender, as_json: bool) -> Result<Exit, Failure> {
        let bar = bar(self.total, as_json);
        let mut progress = Progress { sent: 0, failed: 0, note: self.before.clone() };
        let (mut on_the_way, mut open) = (FuturesUnordered::new(), BTreeSet::new());
        let (mut at_end, mut stopped, mut last_line) = (false, false, self.before.up_to());
        // Lines that failed before, and are still ahead.
        let mut again = self.before.failed().clone();
        let stop = interrupted();
        tokio::pin!(stop);
        while !((at_end || stopped) && on_the_way.is_empty()) {
            tokio::select! {
                biased;
                () = &mut stop, if !stopped => stopped = true,
                Some((line, sample, ended)) = on_the_way.next() => {
                    open.remove(&line);
                    match &ended {
                        Ok(_) => progress.note.confirm(line, sample),
                        Err(_) => progress.note.fail(line),
                    }
                    self.settled(&mut progress, line, ended, &bar, as_json);
                    progress.note.advance(open.first().copied().unwrap_or(last_line + 1));
                    if (progress.sent + progress.failed).is_multiple_of(NOTE_EVERY) {
                        self.write_note(&progress)?;
                    }
                }
                line = self.lines.next(), if !at_end && !stopped && on_the_way.len() < self.in_flight => {
                    match line.map_err(|error| Failure::usage(format!("the jobs file cannot be read on: {error}")))? {
                        None => {
                            at_end = true;
                            again.iter().for_each(|line| progress.note.forget(*line));
                        }
                        Some(line) => {
                            let failed_before = again.remove(&line.number);
                            if line.number <= self.before.up_to() && !failed_before {
                                bar.inc(1);
                                continue;
                            }
                            last_line = last_line.max(line.number);
                            open.insert(line.number);
                            let (job, number) = (self.job(&line), line.number);
                            let sample = if progress.note.wants_samples() { sample(&line) } else { None };
                            on_the_way.push(async move { (number, sample, deliver(sender, job).await) });
                        }
                    }
                }
            }
        }
        bar.finish_and_clear();
        progress.note.advance(last_line + 1);
        self.write_note(&progress)?;
        Ok(self.summary(&progress, stopped, as_json))
    }

    fn job(&self, line: &JobLine) -> Result<Job, String> {
        let Some(text) = &line.text else { return Err("the line is longer than a job may be; shorten it".to_owned()) };
        let mut job = job_of_line(text, &self.defaults).map_err(|error| error.to_string())?;
        job.subject.image = beside(&self.folder, job.subject.image);
        Ok(job)
    }

    fn settled(
        &self,
        progress: &mut Progress,
        line: u64,
        ended: Result<JobId, String>,
        bar: &ProgressBar,
        as_json: bool,
    ) {
        bar.inc(1);
        match ended {
            Ok(id) => {
                progress.sent += 1;
                if as_json {
                    print_json("submitted", &json!({ "line": line, "id": id }));
                }
            }
            Err(error) => {
                progress.failed += 1;
                let told = format!("failed line {line}: {error}");
                if as_json {
                    print_json("submitted", &json!({ "line": line, "error": error }));
                } else if bar.is_hidden() {
                    complain(told);
                } else {
                    bar.println(told);
                }
            }
        }
        bar.set_message(format!("{} failed", progress.failed));
    }

    fn write_note(&self, progress: &Progress) -> Result<(), Failure> {
        self.note.as_ref().map_or(Ok(()), |note| progress.note.write(note))
    }

    fn summary(&self, progress: &Progress, stopped: bool, as_json: bool) -> Exit {
        let (Progress { sent, failed, .. }, before) = (progress, self.before.up_to());
        if as_json {
            print_json("summary", &json!({ "sent": sent, "failed": failed, "before": before, "stopped": stopped }));
        } else {
            let others = if self.before.failed().is_empty() { "lines" } else { "the other lines" };
            let before = match before {
                0 => String::new(),
                line => format!(", {others} up to {line} were sent before (--restart sends them again)"),
            };
            print_line(&format!("{sent} sent, {failed} failed{before}"));
            if stopped {
                print_line("stopped; the same command goes on from here");
            } else if *failed > 0 && self.note.is_some() {
                print_line("the same command tries the failed lines again");
            }
        }
        match (stopped, failed) {
            (true, _) => Exit::Interrupted,
            (false, 0) => Exit::Success,
            _ => Exit::JobFailed,
        }
    }
}

fn defaults(arguments: &SubmitArguments) -> Map<String, Value> {
    let mut defaults = arguments.sampling.as_defaults();
    defaults.extend(arguments.lane.map(|lane| ("lane".to_owned(), json!(lane))));
    defaults.extend(arguments.callback.as_ref().map(|callback| ("callback".to_owned(), json!(callback))));
    defaults
}

async fn deliver(sender: &Sender, job: Result<Job, String>) -> Result<JobId, String> {
    let mut job = job?;
    job.subject.image = sender.pictures.sent_along(&job.subject.image).await?;
    // The id follows from the content that is sent, so that the same picture under another path is the same job.
    let job = job.with_id();
    job.validate().map_err(|error| error.to_string())?;
    sender.send(&job).await.map_err(|error| error.to_string())?;
    Ok(job.id)
}

fn bar(total: Option<u64>, as_json: bool) -> ProgressBar {
    let target = if as_json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(total, target);
    let template = match total {
        Some(_) => "{bar:30} {pos}/{len} sent, {msg}, {per_sec}, {eta} left",
        None => "{spinner} {pos} sent, {msg}, {per_sec}",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message("0 failed");
    bar
}

#[cfg(test)]
mod tests {
    use echogen_ports::MemoryBroker;
    use echogen_protocol::Lane;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        submit: SubmitArguments,
    }

    /// A folder with a jobs file and its pictures, and a broker of this process.
    struct Bench {
        folder: tempfile::TempDir,
        broker: MemoryBroker,
    }

    impl Bench {
        fn new(lines: &[&str]) -> Self {
            let bench = Self { folder: tempfile::tempdir().unwrap(), broker: MemoryBroker::new() };
            bench.write(lines);
            bench
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, lines: &[&str]) {
            std::fs::write(self.path("jobs.jsonl"), lines.join("\n") + "\n").unwrap();
        }

        fn draw(&self, picture: &str) {
            std::fs::write(self.path(picture), picture).unwrap();
        }

        async fn run(&self, more: &[&str]) -> Result<Exit, Failure> {
            let line = ["echogen", "--batch", "jobs.jsonl"].iter().chain(more);
            let arguments = <Line as clap::Parser>::try_parse_from(line).unwrap().submit;
            let sender = Sender { broker: Arc::new(self.broker.clone()), pictures: Pictures { work: None } };
            Batch::open(&self.path("jobs.jsonl"), &arguments).await?.send(&sender, true).await
        }

        fn sent(&self) -> usize {
            self.broker.waiting(&QueueName::dispatch(Lane::default()))
        }
    }

    const DOG: &str = r#"{"subject": {"image": "dog.png"}, "prompt": "a dog"}"#;
    const CAT: &str = r#"{"subject": {"image": "cat.png"}, "prompt": "a cat"}"#;

    #[tokio::test]
    async fn a_failed_line_is_sent_by_the_next_run_and_by_no_further_one() {
        let bench = Bench::new(&["no job", CAT, DOG]);
        bench.draw("dog.png");
        assert_eq!((bench.run(&[]).await.unwrap(), bench.sent()), (Exit::JobFailed, 1));
        bench.draw("cat.png");
        assert_eq!((bench.run(&[]).await.unwrap(), bench.sent()), (Exit::JobFailed, 2), "line 1 is still none");
        bench.write(&[
            &DOG.replace("a dog", "a dog in the snow"),
            CAT,
            DOG,
            &CAT.replace("a cat", "a cat in the snow"),
        ]);
        assert_eq!((bench.run(&[]).await.unwrap(), bench.sent()), (Exit::Success, 4), "mended, and one more");
        assert_eq!((bench.run(&[]).await.unwrap(), bench.sent()), (Exit::Success, 4));
    }

    #[tokio::test]
    async fn a_failed_line_that_was_taken_out_is_forgotten() {
        let bench = Bench::new(&[DOG, "no job", DOG]);
        bench.draw("dog.png");
        assert_eq!(bench.run(&[]).await.unwrap(), Exit::JobFailed);
        bench.write(&[DOG, "", DOG]);
        assert_eq!(bench.run(&[]).await.unwrap(), Exit::Success);
        assert!(std::fs::read_to_string(bench.path("jobs.jsonl.submitted")).unwrap().contains(r#""failed":[]"#));
    }

    #[tokio::test]
    async fn another_file_under_the_same_name_is_refused() {
        let bench = Bench::new(&[DOG]);
        bench.draw("dog.png");
        bench.draw("cat.png");
        assert_eq!(bench.run(&[]).await.unwrap(), Exit::Success);
        bench.write(&[CAT]);
        let refused = bench.run(&[]).await.unwrap_err();
        assert_eq!((refused.exit, bench.sent()), (Exit::Usage, 1));
        assert!(refused.message.contains("line 1") && refused.message.contains("--restart"), "{}", refused.message);
        assert_eq!((bench.run(&["--restart"]).await.unwrap(), bench.sent()), (Exit::Success, 2));
        assert_eq!((bench.run(&[]).await.unwrap(), bench.sent()), (Exit::Success, 2));
    }

    #[tokio::test]
    async fn another_prefix_or_broker_is_refused() {
        let bench = Bench::new(&[DOG]);
        bench.draw("dog.png");
        let at = |url: &'static str, prefix: &'static str| ["--amqp-url", url, "--amqp-prefix", prefix];
        let here = "amqp://guest:guest@rabbit/%2f";
        assert_eq!(bench.run(&at(here, "dogs")).await.unwrap(), Exit::Success);
        for (other, said) in [(at(here, "cats"), "\"cats\""), (at("amqp://x:secret@hare/%2f", "dogs"), "hare/%2f")] {
            let refused = bench.run(&other).await.unwrap_err();
            assert_eq!(refused.exit, Exit::Usage);
            for word in [said, "rabbit/%2f with the prefix \"dogs\"", "--restart"] {
                assert!(refused.message.contains(word), "{word}: {}", refused.message);
            }
            assert!(!refused.message.contains("secret"), "{}", refused.message);
        }
        assert_eq!(bench.run(&at("amqp://other:password@rabbit/%2f", "dogs")).await.unwrap(), Exit::Success);
        assert_eq!(bench.sent(), 1);
    }

    #[tokio::test]
    async fn lane_and_callback_are_for_lines_that_do_not_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.jsonl");
        let job = |more: &str| format!(r#"{{"subject": {{"image": "data:,x"}}, "prompt": "a dog"{more}}}"#) + "\n";
        let own = r#", "lane": "interactive", "callback": "https://example.org/own""#;
        std::fs::write(&path, job("") + &job(own)).unwrap();
        let line = ["echogen", "--batch", "jobs.jsonl", "--lane", "bulk", "--callback", "https://example.org/all"];
        let arguments = <Line as clap::Parser>::try_parse_from(line).unwrap().submit;
        let mut batch = Batch::open(&path, &arguments).await.unwrap();
        let mut seen = Vec::new();
        while let Some(line) = batch.lines.next().await.unwrap() {
            let job = batch.job(&line).unwrap();
            seen.push((job.lane, job.callback.unwrap()));
        }
        let expected = |lane, callback: &str| (lane, format!("https://example.org/{callback}"));
        assert_eq!(seen, [expected(Lane::Bulk, "all"), expected(Lane::Interactive, "own")]);
    }

    #[tokio::test]
    async fn a_file_is_written_into_the_job_or_stored_ahead_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dog.png");
        std::fs::write(&path, b"dog").unwrap();
        let source = ImageSource(path.to_str().unwrap().to_owned());
        let inline = Pictures { work: None }.sent_along(&source).await.unwrap();
        assert_eq!(inline.0, "data:application/octet-stream;base64,ZG9n");
        let store = Arc::new(echogen_ports::MemoryObjectStore::new());
        let work: Arc<dyn ObjectStore> = Arc::clone(&store) as _;
        let stored = Pictures { work: Some(work) }.sent_along(&source).await.unwrap();
        assert_eq!(stored, ImageSource::stored(ContentHash::of(b"dog")));
        assert_eq!(store.keys().len(), 1);
        let web = ImageSource("https://example.org/dog.png".to_owned());
        assert_eq!(Pictures { work: None }.sent_along(&web).await.unwrap(), web);
        let error = Pictures { work: None }.sent_along(&"no-such.png".into()).await.unwrap_err();
        assert!(error.contains("no-such.png"), "{error}");
    }
}
