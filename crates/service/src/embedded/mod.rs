//! Everything in one process, without servers: the broker and the cache are in memory, the stores are folders.
//!
//! [`up`] reads jobs from a pipe; [`Pipeline`] and [`Runner`] run those of `generate` and `batch`. The stages are
//! those of a distributed installation, and are started in the same way.

mod folder_cache;
mod pipeline;
mod runner;

use std::{collections::HashSet, net::SocketAddr};

use echogen_ports::{EventStream, Message, Secret};
use echogen_protocol::{EventKind, JobEvent, RoleName, StageTask};
use echogen_telemetry::Telemetry;
use echogen_worker::Clock;
use tokio_util::sync::CancellationToken;

pub use pipeline::{Pipeline, PipelineOptions, WORK_FOLDER};
pub use runner::{Candidate, JobEnd, JobSource, Outcome, RunObserver, Runner};

use crate::{
    Backends, Exit, Failure, NetworkSource,
    config::ServiceConfig,
    gateway::OpenGateway,
    job_lines::{JobLine, JobLines},
    jobs_file::{JobFields, parsed, without_callback},
    run::{Process, beat, exit_of, work},
};

/// The outcome of a line that [`up`] has read.
#[derive(Debug)]
pub enum LineEnd {
    /// The line is not a valid job.
    Refused {
        /// Its number, counted from 1.
        line: u64,
        /// What is wrong with it.
        error: String,
    },
    /// The event that ended or parked its job.
    Ended(Box<JobEvent>),
}

/// Runs all roles in this process on the jobs of `lines`, at most `worker.in_flight` at a time, until all have ended
/// or a signal arrives. `each` is called with the outcome of every line.
pub async fn up(
    networks: &dyn NetworkSource,
    config: &ServiceConfig,
    telemetry: &Telemetry,
    lines: JobLines,
    each: impl FnMut(LineEnd),
) -> Result<Exit, Failure> {
    let process = Process::begin(&RoleName::WORKERS, config, telemetry).await?;
    let Process { roles, tracker, shutdown, .. } = &process;
    let opening = Box::pin(Backends::embedded(config, tracker));
    // At a signal during start-up no job has been read yet.
    let Some(backends) = shutdown.run_until_cancelled(opening).await else { return Ok(Exit::Interrupted) };
    let backends = backends?;
    let feeding = async {
        let ended =
            Feed::open(&backends, usize::try_from(config.worker.in_flight).unwrap_or(usize::MAX), lines, each).await;
        let ended = match ended {
            Ok(feed) => feed.run(shutdown).await,
            Err(failure) => Err(failure),
        };
        // No more jobs will be published, so the stages can drain. Without this they would wait for tasks for ever.
        shutdown.cancel();
        ended
    };
    let (worked, fed) = tokio::join!(work(roles, networks, &backends, config, shutdown), feeding);
    // If a stage fails, it cancels `shutdown`, which also ends the feed. The stage's error is the cause, so it is
    // checked first.
    exit_of(worked.and(fed))
}

/// What a user is told when the gateway of [`serve`] is ready.
#[derive(Debug)]
pub struct Announcement {
    /// Where the API and the console are reached from this machine.
    pub address: SocketAddr,
    /// A key, if it was made now; it cannot be shown again.
    pub new_key: Option<Secret>,
}

/// Runs all roles and the gateway in this process until a signal arrives. Jobs that had not ended when the process before was
/// stopped are run again.
pub async fn serve(
    networks: &dyn NetworkSource,
    config: &ServiceConfig,
    telemetry: &Telemetry,
    announce: impl FnOnce(&Announcement),
) -> Result<Exit, Failure> {
    let process = Process::begin(&RoleName::ALL, config, telemetry).await?;
    let Process { tracker, shutdown, .. } = &process;
    let opening = Box::pin(Backends::embedded(config, tracker));
    let Some(backends) = shutdown.run_until_cancelled(opening).await else { return Ok(Exit::Interrupted) };
    let backends = backends?;
    let gateway = OpenGateway::open(&backends, config, shutdown).await?;
    announce(&Announcement { address: gateway.address()?, new_key: gateway.new_key.clone() });
    gateway.refill().await?;
    let serving = gateway.serve(shutdown.clone());
    let beating = beat(&[RoleName::Gateway], &backends, shutdown);
    let working = work(&RoleName::WORKERS, networks, &backends, config, shutdown);
    let (worked, (), ()) = tokio::join!(working, serving, beating);
    exit_of(worked.map(|()| Exit::Success))
}

/// Publishes the jobs of a pipe and waits for their ends.
struct Feed<'a, F> {
    backends: &'a Backends,
    events: Box<dyn EventStream>,
    lines: JobLines,
    max_in_flight: usize,
    in_flight: HashSet<String>,
    exit: Exit,
    each: F,
}

impl<'a, F: FnMut(LineEnd)> Feed<'a, F> {
    async fn open(backends: &'a Backends, max_in_flight: usize, lines: JobLines, each: F) -> Result<Self, Failure> {
        // Subscribed before any job is published, so that no end is missed.
        let events = backends.broker.subscribe("job").await;
        let events = events.map_err(|error| Failure::refused("events cannot be received", &error))?;
        let (max_in_flight, in_flight) = (max_in_flight.max(1), HashSet::new());
        Ok(Self { backends, events, lines, max_in_flight, in_flight, exit: Exit::Success, each })
    }

    async fn run(mut self, shutdown: &CancellationToken) -> Result<Exit, Failure> {
        let mut at_end = false;
        while !(at_end && self.in_flight.is_empty()) {
            let may_read = !at_end && self.in_flight.len() < self.max_in_flight;
            tokio::select! {
                // Ends are handled before new lines are read: each one frees a slot for the next job and the memory of
                // its event.
                biased;
                // A signal, or a stage that failed.
                () = shutdown.cancelled() => return Ok(Exit::Interrupted),
                // A job has ended or was parked.
                Some(event) = next_end(&mut *self.events) => self.ended(event),
                // The next line, if the number of jobs in flight is below the limit. Further lines stay unread in the
                // pipe.
                line = self.lines.next(), if may_read => match line.map_err(|error| unreadable(&error))? {
                    None => at_end = true,
                    Some(line) => self.take(&line).await?,
                },
            }
        }
        Ok(self.exit)
    }

    async fn take(&mut self, line: &JobLine) -> Result<(), Failure> {
        let job = parsed(line, &JobFields::new()).and_then(|job| without_callback(job.with_id()));
        match job {
            Ok(job) => {
                let message = Message::of_job(&job, Clock::system().now());
                let sent = self.backends.broker.publish(&job.queue(), message).await;
                sent.map_err(|error| Failure::refused("the jobs cannot be sent", &error))?;
                self.in_flight.insert(job.id.0);
            }
            Err(error) => {
                self.exit = Exit::JobFailed;
                (self.each)(LineEnd::Refused { line: line.number, error });
            }
        }
        Ok(())
    }

    fn ended(&mut self, event: JobEvent) {
        self.in_flight.remove(event.subject.as_str());
        if event.kind != EventKind::Completed {
            self.exit = Exit::JobFailed;
        }
        (self.each)(LineEnd::Ended(Box::new(event)));
    }
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::usage(format!("the jobs cannot be read on: {error}"))
}

/// Returns the next event that ends or parks a job.
async fn next_end(events: &mut dyn EventStream) -> Option<JobEvent> {
    loop {
        let Some(event) = events.next().await?.to_job() else { continue };
        if event.kind.ends_job() || matches!(event.kind, EventKind::Parked | EventKind::Conflict) {
            return Some(event);
        }
    }
}

#[cfg(test)]
mod tests;
