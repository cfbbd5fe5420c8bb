//! Publishes jobs to the pipeline, with a bounded number in flight, and follows each to its end.

use std::{collections::HashMap, time::Instant};

use echogen_ports::EventStream;
use echogen_protocol::{ContentHash, EventKind, Job, JobEvent, JobId, JobResult, JobStatus};
use tokio_util::sync::CancellationToken;

use super::Pipeline;
use crate::{
    Failure,
    jobs_file::{JobsFile, without_callback},
};

/// A source of jobs.
pub trait JobSource {
    /// Returns the next job or invalid line; `None` at the end. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Option<Candidate>, Failure>>;
}

/// A line, or an argument, that may be a job.
#[derive(Debug)]
pub struct Candidate {
    /// Its line in the jobs file.
    pub line: Option<u64>,
    /// The job, or what is wrong with the line.
    pub job: Result<Job, String>,
}

impl JobSource for JobsFile {
    async fn next(&mut self) -> Result<Option<Candidate>, Failure> {
        let Some(line) = self.next_line().await? else { return Ok(None) };
        Ok(Some(Candidate { line: Some(line.number), job: self.job(&line).and_then(without_callback) }))
    }
}

/// A single job.
impl JobSource for Option<Job> {
    async fn next(&mut self) -> Result<Option<Candidate>, Failure> {
        Ok(self.take().map(|job| Candidate { line: None, job: Ok(job) }))
    }
}

/// Receives notifications while jobs run.
pub trait RunObserver {
    /// A job has ended, or a line is invalid.
    fn job_ended(&mut self, end: JobEnd<'_>);

    /// This many scales of a job's pictures are done.
    fn scale_done(&mut self, scale: u64, scales: u64);

    /// A signal has arrived: tasks in progress are finished, and no others are started.
    fn stopping(&mut self);
}

/// The end of a job or an invalid line.
#[derive(Debug)]
pub struct JobEnd<'a> {
    /// The job; absent if the line is none.
    pub job: Option<&'a Job>,
    /// Its line in the jobs file.
    pub line: Option<u64>,
    /// Its number among all that were read, counted from 1.
    pub order: u64,
    /// The outcome.
    pub outcome: Outcome<'a>,
    /// The time from its submission to its end.
    pub seconds: f64,
}

/// The outcome of a job.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It ran and completed.
    Done(&'a JobResult),
    /// It was complete before this run.
    Cached(&'a JobResult),
    /// It is identical to an earlier line.
    Repeated,
    /// It failed, with the reason.
    Failed(String),
}

/// One run of many jobs.
pub struct Runner<'a, O> {
    pipeline: &'a Pipeline,
    events: Box<dyn EventStream>,
    observer: &'a mut O,
    in_flight: HashMap<JobId, InFlight>,
    max_in_flight: usize,
    seen: HashMap<u64, Seen>,
    order: u64,
}

struct InFlight {
    job: Job,
    line: Option<u64>,
    order: u64,
    started: Instant,
}

/// A record of an id that was read: enough to distinguish one job sent twice from two jobs with the same id.
struct Seen {
    line: Option<u64>,
    content: u64,
}

impl<'a, O: RunObserver> Runner<'a, O> {
    /// Creates a run with at most `max_in_flight` jobs in flight.
    pub async fn new(pipeline: &'a Pipeline, max_in_flight: usize, observer: &'a mut O) -> Result<Self, Failure> {
        let (events, max_in_flight) = (pipeline.events().await?, max_in_flight.max(1));
        let (in_flight, seen) = (HashMap::new(), HashMap::new());
        Ok(Self { pipeline, events, observer, in_flight, max_in_flight, seen, order: 0 })
    }

    /// Runs all jobs of `source`, or until `stop`; then tasks in progress are finished and no others are started.
    /// Returns whether the run was interrupted.
    pub async fn run(mut self, source: &mut impl JobSource, stop: &CancellationToken) -> Result<bool, Failure> {
        let mut source_ended = false;
        while !stop.is_cancelled() && (!source_ended || !self.in_flight.is_empty()) {
            let may_read = !source_ended && self.in_flight.len() < self.max_in_flight;
            tokio::select! {
                // Ends are handled before new jobs are read, so that the memory of ended jobs is freed first.
                biased;
                // A signal: read no more jobs.
                () = stop.cancelled() => break,
                // An event of a job.
                Some(event) = self.events.next() => self.observe(event.to_job()),
                // The next job, if the number of jobs in flight is below the limit.
                candidate = source.next(), if may_read => match candidate? {
                    Some(candidate) => self.take(candidate).await,
                    None => source_ended = true,
                },
            }
        }
        let interrupted = stop.is_cancelled() && !(source_ended && self.in_flight.is_empty());
        if interrupted {
            self.drain().await;
        }
        Ok(interrupted)
    }

    async fn take(&mut self, candidate: Candidate) {
        self.order += 1;
        let (order, Candidate { line, job }) = (self.order, candidate);
        let mut report = |job: Option<&Job>, outcome: Outcome<'_>| {
            self.observer.job_ended(JobEnd { job, line, order, outcome, seconds: 0.0 });
        };
        let job = match job {
            Ok(job) => job,
            Err(error) => return report(None, Outcome::Failed(error)),
        };
        match came_before(&mut self.seen, &job, line) {
            Ok(false) => {}
            Ok(true) => return report(Some(&job), Outcome::Repeated),
            Err(error) => return report(Some(&job), Outcome::Failed(error)),
        }
        match self.pipeline.finished(&job).await {
            Ok(None) => {}
            Ok(Some(result)) => return report(Some(&job), Outcome::Cached(&result)),
            Err(error) => return report(Some(&job), Outcome::Failed(error.to_string())),
        }
        match self.pipeline.submit(&job).await {
            Ok(()) => {
                // Recorded after the publish: the job's events wait in the subscription until `run` polls it again.
                let in_flight = InFlight { line, order, started: Instant::now(), job };
                self.in_flight.insert(in_flight.job.id.clone(), in_flight);
            }
            Err(error) => report(Some(&job), Outcome::Failed(error.to_string())),
        }
    }

    fn observe(&mut self, event: Option<JobEvent>) {
        let Some(event) = event else { return };
        match event.kind {
            EventKind::Sampling => {
                let number = |name: &str| event.data.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
                self.observer.scale_done(number("scale"), number("scales"));
            }
            EventKind::Conflict => {
                self.ended(&event.subject, Err("the id is taken by a job of other content".to_owned()))
            }
            EventKind::Parked => self.ended(&event.subject, Err(parked_reason(&event))),
            kind if kind.ends_job() => {
                let result = serde_json::from_value::<JobResult>(event.data);
                self.ended(&event.subject, result.map_err(|error| format!("its result cannot be read: {error}")));
            }
            _ => {}
        }
    }

    fn ended(&mut self, id: &JobId, result: Result<JobResult, String>) {
        // For a repeated event, the job is no longer in flight.
        let Some(InFlight { job, line, order, started }) = self.in_flight.remove(id) else { return };
        let outcome = match &result {
            Ok(result) if result.status == JobStatus::Completed => Outcome::Done(result),
            Ok(result) => {
                let why = result.error.as_ref().map_or("no reason given", |error| error.message.as_str());
                Outcome::Failed(why.to_owned())
            }
            Err(why) => Outcome::Failed(why.clone()),
        };
        let seconds = started.elapsed().as_secs_f64();
        self.observer.job_ended(JobEnd { job: Some(&job), line, order, outcome, seconds });
    }

    /// Lets the stages finish the tasks in progress and handles their events.
    async fn drain(&mut self) {
        self.observer.stopping();
        let drained = self.pipeline.drain();
        tokio::pin!(drained);
        loop {
            tokio::select! {
                // Events are handled first, so that as many as possible are reported as they come.
                biased;
                // An event of a job.
                Some(event) = self.events.next() => self.observe(event.to_job()),
                // All stages have drained.
                () = &mut drained => break,
            }
        }
        // The notifier drains together with the stages whose ends it publishes: the last ones it may not have published.
        let left: Vec<Job> = self.in_flight.values().map(|in_flight| in_flight.job.clone()).collect();
        for job in left {
            if let Ok(Some(result)) = self.pipeline.result(&job).await {
                self.ended(&job.id, Ok(result));
            }
        }
    }
}

/// Returns whether the identical job was read before. Two different jobs with the same id are an error: they would
/// share a folder, and the second would never run.
fn came_before(seen: &mut HashMap<u64, Seen>, job: &Job, line: Option<u64>) -> Result<bool, String> {
    let content = short_hash(&serde_json::to_vec(job).unwrap_or_default());
    let id = short_hash(job.id.as_str().as_bytes());
    let Some(earlier) = seen.get(&id) else {
        seen.insert(id, Seen { line, content });
        return Ok(false);
    };
    if earlier.content == content {
        return Ok(true);
    }
    let place = earlier.line.map_or_else(String::new, |line| format!(" on line {line}"));
    Err(format!("the id {:?} is already used{place}; give each job an id of its own", job.id.as_str()))
}

/// Returns the first eight bytes of SHA-256, which are small enough to keep for millions of jobs.
fn short_hash(bytes: &[u8]) -> u64 {
    ContentHash::of(bytes).as_bytes().iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
}

fn parked_reason(event: &JobEvent) -> String {
    let reason = event.data.get("error").or_else(|| event.data.get("reason")).and_then(serde_json::Value::as_str);
    reason.unwrap_or("it failed too often").to_owned()
}
