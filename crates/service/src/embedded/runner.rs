//! Sends jobs into the pipeline, a bounded number at a time, and follows each to its end.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Instant,
};

use echogen_ports::EventStream;
use echogen_protocol::{ContentHash, EventKind, Job, JobEvent, JobId, JobResult, JobStatus};
use tokio_util::sync::CancellationToken;

use crate::{
    contact_sheet::{self, Collection},
    failure::Failure,
    pipeline::Pipeline,
    report::{JobReport, Reporter, Status, Tally},
};

/// Where jobs come from.
pub(crate) trait JobSource {
    /// Returns the next job, or the next line that is none; `None` at the end.
    async fn next(&mut self) -> std::io::Result<Option<Candidate>>;
}

/// What may become a job.
pub(crate) struct Candidate {
    /// Its line in the jobs file.
    pub(crate) line: Option<u64>,
    /// The job, or what is wrong with the line.
    pub(crate) job: Result<Job, String>,
}

/// One run of many jobs.
pub(crate) struct Runner<'a> {
    pipeline: &'a Pipeline,
    events: Box<dyn EventStream>,
    out: &'a Path,
    reporter: Reporter,
    in_flight: HashMap<JobId, InFlight>,
    max_in_flight: usize,
    seen: HashMap<u64, Seen>,
    sheet: Collection,
    order: u64,
}

struct InFlight {
    job: Job,
    line: Option<u64>,
    order: u64,
    started: Instant,
}

/// An id that came before: enough to tell a job sent twice from two jobs of one name.
struct Seen {
    line: Option<u64>,
    content: u64,
}

impl<'a> Runner<'a> {
    /// A run that has at most `max_in_flight` jobs on their way.
    pub(crate) async fn new(
        pipeline: &'a Pipeline,
        out: &'a Path,
        reporter: Reporter,
        max_in_flight: usize,
    ) -> Result<Self, Failure> {
        let events = pipeline.events().await?;
        Ok(Self {
            pipeline,
            events,
            out,
            reporter,
            in_flight: HashMap::new(),
            max_in_flight: max_in_flight.max(1),
            seen: HashMap::new(),
            sheet: Collection::default(),
            order: 0,
        })
    }

    /// Runs all jobs of `source`, or until `stop`; then what is at work in a stage is finished and the rest left.
    pub(crate) async fn run(mut self, source: &mut impl JobSource, stop: &CancellationToken) -> Result<Tally, Failure> {
        let started = Instant::now();
        let mut source_ended = false;
        while !stop.is_cancelled() && (!source_ended || !self.in_flight.is_empty()) {
            let has_room = !source_ended && self.in_flight.len() < self.max_in_flight;
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(event) = self.events.next() => self.heard(event.to_job()),
                candidate = source.next(), if has_room => match candidate.map_err(unreadable)? {
                    Some(candidate) => self.take(candidate).await,
                    None => source_ended = true,
                },
            }
        }
        let interrupted = stop.is_cancelled() && !(source_ended && self.in_flight.is_empty());
        if interrupted {
            self.drain().await;
        }
        self.finish(started, interrupted).await
    }

    async fn take(&mut self, candidate: Candidate) {
        self.order += 1;
        let Candidate { line, job } = candidate;
        let job = match job {
            Ok(job) => job,
            Err(error) => return self.report(None, line, Status::Failed, Err(error), 0.0),
        };
        let id = job.id.clone();
        match self.enter(job, line).await {
            Ok(None) => {}
            Ok(Some(images)) => self.report(Some(&id), line, Status::Cached, Ok(images), 0.0),
            Err(error) => self.report(Some(&id), line, Status::Failed, Err(error), 0.0),
        }
    }

    /// Submits a job, or returns its pictures if it is done already.
    async fn enter(&mut self, job: Job, line: Option<u64>) -> Result<Option<Vec<PathBuf>>, String> {
        if self.came_before(&job, line)? {
            return Ok(Some(Vec::new()));
        }
        if let Some(result) = self.pipeline.finished(&job).await.map_err(|error| error.to_string())? {
            self.sheet.add(self.order, &job, &result);
            return Ok(Some(self.paths(&result)));
        }
        self.pipeline.submit(&job).await.map_err(|error| error.to_string())?;
        let id = job.id.clone();
        self.in_flight.insert(id, InFlight { job, line, order: self.order, started: Instant::now() });
        Ok(None)
    }

    /// Returns whether this very job came before. Two different jobs of one id are a fault: they would share one
    /// folder, and the second would never run.
    fn came_before(&mut self, job: &Job, line: Option<u64>) -> Result<bool, String> {
        let content = short_hash(&serde_json::to_vec(job).unwrap_or_default());
        let id = short_hash(job.id.as_str().as_bytes());
        let Some(earlier) = self.seen.get(&id) else {
            self.seen.insert(id, Seen { line, content });
            return Ok(false);
        };
        if earlier.content == content {
            return Ok(true);
        }
        let place = earlier.line.map_or_else(String::new, |line| format!(" on line {line}"));
        Err(format!("the id {:?} stands already{place}; give each job an id of its own", job.id.as_str()))
    }

    fn heard(&mut self, event: Option<JobEvent>) {
        let Some(event) = event else { return };
        match event.kind {
            EventKind::Sampling => {
                let number = |name: &str| event.data.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
                self.reporter.scale_done(number("scale"), number("scales"));
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
        // A repeated event finds nothing.
        let Some(InFlight { job, line, order, started }) = self.in_flight.remove(id) else { return };
        let seconds = started.elapsed().as_secs_f64();
        match result {
            Ok(result) if result.status == JobStatus::Completed => {
                let images = self.paths(&result);
                self.sheet.add(order, &job, &result);
                self.report(Some(id), line, Status::Done, Ok(images), seconds);
            }
            Ok(result) => {
                let message = result.error.map_or_else(|| "no reason given".to_owned(), |error| error.message);
                self.report(Some(id), line, Status::Failed, Err(message), seconds);
            }
            Err(message) => self.report(Some(id), line, Status::Failed, Err(message), seconds),
        }
    }

    /// Lets the stages finish what they are at, and hears of it.
    async fn drain(&mut self) {
        self.reporter.note("stopping: finishing what is running; press Ctrl-C again to stop at once");
        let drained = self.pipeline.drain();
        tokio::pin!(drained);
        loop {
            tokio::select! {
                biased;
                Some(event) = self.events.next() => self.heard(event.to_job()),
                () = &mut drained => return,
            }
        }
    }

    async fn finish(self, started: Instant, interrupted: bool) -> Result<Tally, Failure> {
        let drawn = self.sheet.draw(self.pipeline.work(), self.pipeline.pictures()).await;
        if let Err(error) = &drawn {
            self.reporter.note(&format!("warning: no contact sheet: {error:#}"));
        }
        let mut tally = self.reporter.finish(started.elapsed(), interrupted);
        tally.contact_sheet = drawn.unwrap_or(false).then(|| self.out.join(contact_sheet::KEY));
        Ok(tally)
    }

    fn paths(&self, result: &JobResult) -> Vec<PathBuf> {
        result.images.iter().map(|image| self.out.join(&image.key)).collect()
    }

    fn report(
        &mut self,
        id: Option<&JobId>,
        line: Option<u64>,
        status: Status,
        images: Result<Vec<PathBuf>, String>,
        seconds: f64,
    ) {
        let id = id.map(|id| id.as_str().to_owned());
        let (images, error) = match images {
            Ok(images) => (images, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        self.reporter.job_ended(&JobReport { id, line, status, images, error, seconds });
    }
}

/// Eight bytes of SHA-256: small enough to keep for millions of jobs.
fn short_hash(bytes: &[u8]) -> u64 {
    ContentHash::of(bytes).as_bytes().iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
}

fn unreadable(error: std::io::Error) -> Failure {
    Failure::usage(format!("the jobs file cannot be read on: {error}"))
}

fn parked_reason(event: &JobEvent) -> String {
    let reason = event.data.get("error").or_else(|| event.data.get("reason")).and_then(serde_json::Value::as_str);
    reason.unwrap_or("it failed too often").to_owned()
}

#[cfg(test)]
mod tests;
