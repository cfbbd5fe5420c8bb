//! Waiting for the end of a job.
//!
//! Events say at once what happens, but one may be missed: the connection may be lost, and a broker may drop events of a full
//! queue. Therefore the result is also looked up, at once after a subscription was made again and otherwise at growing
//! intervals. A missed event costs some seconds and never the answer.

use std::{sync::Arc, time::Duration};

use echogen_ports::{Backoff, Broker};
use echogen_protocol::{ContentHash, EventKind, Job, JobEvent, JobId, JobResult};
use echogen_worker::JobState;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    events::{Incoming, JobEvents, is_last},
    status::{JobStatus, StatusReader},
};
use crate::{Exit, Failure, backends::store_url, config::ServiceConfig};

/// The intervals between two look-ups.
const INTERVALS: Backoff = Backoff::doubling(1.0, 10.0);

/// The time that one look-up may take.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// What a caller that waits reports.
#[derive(Debug)]
pub enum Observed<'a> {
    /// An event of the job.
    Event(&'a JobEvent),
    /// The connection to the broker was lost; it is made again.
    Lost,
    /// The status cannot be read. Reported once, until it can be read again.
    Unreadable(&'a str),
}

/// Waits for the end of one job.
pub struct JobWait {
    events: JobEvents,
    /// Where the result is looked up; `None` if no store is configured.
    reader: Option<Arc<StatusReader>>,
    /// The state before the job was published. It says nothing of the job's end.
    before: Option<JobState>,
    /// What the caller has asked for, and the number of its asking.
    asked: (Option<ContentHash>, u64),
    look_ups: u32,
    next_look_up: Instant,
    is_unreadable: bool,
}

/// What happens while a caller waits.
enum Notice {
    Event(Box<JobEvent>),
    Lost,
    /// The status is to be looked up.
    LookUp,
}

impl JobWait {
    /// Subscribes to the events of a job that is about to be published. If the settings name a store, its result is looked up as
    /// well.
    pub async fn before_publishing(
        broker: Arc<dyn Broker>,
        config: &ServiceConfig,
        job: &Job,
    ) -> Result<Self, Failure> {
        let reader = match store_url(config) {
            Some(_) => Some(Arc::new(StatusReader::open(config, &job.id, job.output.destination.as_deref()).await?)),
            None => None,
        };
        let waiting = Self::start(broker, &job.id, reader).await?;
        Ok(Self { asked: (Some(job.content()), job.again), ..waiting })
    }

    /// The same with an opened reader.
    async fn start(broker: Arc<dyn Broker>, id: &JobId, reader: Option<Arc<StatusReader>>) -> Result<Self, Failure> {
        let before = match &reader {
            Some(reader) => timeout(LOOK_UP_TIMEOUT, reader.state()).await.ok().and_then(Result::ok).flatten(),
            None => None,
        };
        let events = JobEvents::subscribe(broker, id).await?;
        let next_look_up = Instant::now() + INTERVALS.wait(1);
        Ok(Self { events, reader, before, asked: (None, 0), look_ups: 1, next_look_up, is_unreadable: false })
    }

    /// Subscribes to the events of a job that may have ended already: the first look-up is due at once.
    ///
    /// # Errors
    ///
    /// The broker or the status cannot be reached now. Later it is asked again.
    pub async fn of_known_job(broker: Arc<dyn Broker>, reader: Arc<StatusReader>) -> Result<Self, Failure> {
        let events = JobEvents::subscribe(broker, reader.id()).await?;
        reader.check().await?;
        let (reader, next_look_up) = (Some(reader), Instant::now());
        Ok(Self { events, reader, before: None, asked: (None, 0), look_ups: 0, next_look_up, is_unreadable: false })
    }

    /// Waits until the job has ended or was parked; returns its last event. `each` is called for every observation.
    pub async fn end(&mut self, mut each: impl FnMut(Observed<'_>)) -> Result<JobEvent, Failure> {
        loop {
            match self.next().await {
                Notice::Event(event) => {
                    each(Observed::Event(&event));
                    if is_last(&event, self.asked.0) {
                        return Ok(*event);
                    }
                }
                Notice::Lost => each(Observed::Lost),
                Notice::LookUp => {
                    let status = self.look_up(&mut each).await;
                    if let Some(event) = status.and_then(|status| self.last_event(&status)) {
                        each(Observed::Event(&event));
                        return Ok(event);
                    }
                }
            }
        }
    }

    /// Waits until the job has a result; returns its status. `each` is called for every observation.
    pub async fn result(&mut self, mut each: impl FnMut(Observed<'_>)) -> Result<JobStatus, Failure> {
        loop {
            let is_due = match self.next().await {
                Notice::Event(event) => {
                    each(Observed::Event(&event));
                    event.kind.ends_job()
                }
                Notice::Lost => {
                    each(Observed::Lost);
                    false
                }
                Notice::LookUp => true,
            };
            if is_due && let Some(status) = self.look_up(&mut each).await.filter(|status| status.result.is_some()) {
                return Ok(status);
            }
        }
    }

    async fn next(&mut self) -> Notice {
        loop {
            tokio::select! {
                // Events first: what they say need not be looked up.
                biased;
                // An event, or the subscription was lost or made again.
                incoming = self.events.next() => match incoming {
                    Incoming::Event(event) => return Notice::Event(event),
                    Incoming::Lost => return Notice::Lost,
                    // The end may have been missed in between.
                    Incoming::Subscribed => self.next_look_up = Instant::now(),
                },
                // No event for a while.
                () = sleep_until(self.next_look_up), if self.reader.is_some() => {
                    self.look_ups = self.look_ups.saturating_add(1);
                    self.next_look_up = Instant::now() + INTERVALS.wait(self.look_ups);
                    return Notice::LookUp;
                }
            }
        }
    }

    /// Reads the status. A store that cannot be read is reported, and asked again later.
    async fn look_up(&mut self, each: &mut impl FnMut(Observed<'_>)) -> Option<JobStatus> {
        let status = timeout(LOOK_UP_TIMEOUT, self.reader.as_ref()?.check()).await;
        let late = |_| Err(Failure::usage(format!("the status was not read within {LOOK_UP_TIMEOUT:?}")));
        let (status, why) = match status.unwrap_or_else(late) {
            Ok(status) => {
                let why = status.unreadable.as_ref().map(|error| error.to_string());
                (Some(status), why)
            }
            Err(failure) => (None, Some(failure.message)),
        };
        if let Some(why) = why.as_ref().filter(|_| !self.is_unreadable) {
            each(Observed::Unreadable(why));
        }
        self.is_unreadable = why.is_some();
        status
    }

    /// Returns the last event of the job, if the status says that there has been one.
    fn last_event(&self, status: &JobStatus) -> Option<JobEvent> {
        // The result of an earlier asking is to be replaced; one of other content says nothing of this job.
        let is_own = |result: &&JobResult| {
            let is_other = matches!((result.content, self.asked.0), (Some(one), Some(other)) if one != other);
            !is_other && !result.is_superseded_by(self.asked.1)
        };
        if let Some(result) = status.result.as_ref().filter(is_own) {
            return Some(JobEvent::of_result(result));
        }
        let state = status.state.as_ref().filter(|state| state.state == EventKind::Parked)?;
        // A job that was published again may have been parked before.
        let is_new = self.before.as_ref() != Some(state);
        let id = self.reader.as_ref()?.id();
        is_new.then(|| JobEvent::new(EventKind::Parked, id, state.updated, json!({ "stage": state.stage })))
    }
}

/// Waits no longer than `limit`, if there is one. The job goes on after that.
pub async fn within<T>(
    limit: Option<Duration>,
    id: &JobId,
    waiting: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let Some(limit) = limit else { return waiting.await };
    timeout(limit, waiting).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs_f64();
        let message =
            format!("the job {id} has not ended within {seconds} seconds; it goes on, ask `echogen status {id}`");
        Err(Failure { exit: Exit::TimedOut, message })
    })
}

#[cfg(test)]
mod tests;
