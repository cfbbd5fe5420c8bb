//! Asks again for jobs by their ids: those that failed, expired, were cancelled or are parked.

use std::sync::Arc;

use echogen_adapters::amqp::AmqpBroker;
use echogen_ports::{Broker, Cache, Message, ObjectStore};
use echogen_protocol::{EventKind, JobId, JobStatus, Partitions};
use echogen_worker::{Clock, JobStatusStore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    again_now,
    dead_letters::{Action, Chosen, act, failure},
    status::StatusReader,
};
use crate::{
    Failure,
    backends::{self, Stores},
    config::ServiceConfig,
};

/// Asks again for jobs.
pub struct Retrier {
    broker: Arc<AmqpBroker>,
    cache: Arc<dyn Cache>,
    results: Arc<dyn ObjectStore>,
    status_store: JobStatusStore,
    partitions: Partitions,
}

/// What was done about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is in its intake queue again, since it had ended as this status says.
    Sent(JobStatus),
    /// Its parked tasks, so many, are in their queues again.
    Redriven(u64),
}

impl Retrier {
    /// Opens the stores and connects to the broker that the settings name, once for all jobs.
    pub async fn open(config: &ServiceConfig) -> Result<Self, Failure> {
        let (cache, results) = (backends::open_cache(config)?, Stores::open(config).await?.results);
        let status_store = JobStatusStore::start(Arc::clone(&cache), &TaskTracker::new());
        let (broker, partitions) = (super::connect(config).await?, config.partitions());
        Ok(Self { broker, cache, results, status_store, partitions })
    }

    /// Asks again for one job. `destination` is its `output.destination`, which is needed if the job status store does not
    /// know the job.
    pub async fn retry(&self, id: &JobId, destination: Option<&str>) -> Result<Retried, Failure> {
        let (cache, results) = (Arc::clone(&self.cache), Arc::clone(&self.results));
        let status = StatusReader::new(cache, results, id, destination).check().await?;
        match status.result.map(|result| result.status) {
            Some(JobStatus::Completed) => Err(Failure::usage(format!("the job {id} has completed"))),
            Some(ended) => {
                self.send(id).await?;
                Ok(Retried::Sent(ended))
            }
            None => match self.redrive(id).await? {
                0 if status.state.as_ref().is_some_and(|state| state.state != EventKind::Parked) => {
                    Err(Failure::usage(format!("the job {id} has not ended")))
                }
                0 => Err(Failure::usage(format!("nothing is known of a job {id}"))),
                letters => Ok(Retried::Redriven(letters)),
            },
        }
    }

    async fn send(&self, id: &JobId) -> Result<(), Failure> {
        let found = self.status_store.request(id).await;
        let found = found.map_err(|error| Failure::refused("the job cannot be looked up", &error))?;
        let mut job = found.ok_or_else(|| {
            let advice = "submit it once more with `echogen submit --again`";
            Failure::usage(format!("the job {id} is not kept, or contained its picture; {advice}"))
        })?;
        job.again = again_now();
        let sent =
            self.broker.publish(&job.intake(self.partitions), Message::of_job(&job, Clock::system().now())).await;
        sent.map_err(|error| Failure::refused("the job was not sent", &error))
    }

    async fn redrive(&self, id: &JobId) -> Result<u64, Failure> {
        let chosen = Chosen { jobs: [id.to_string()].into(), ..Chosen::default() };
        let ended = act(&*self.broker, Action::Redrive, &chosen, &CancellationToken::new(), |_| {}).await;
        Ok(ended.map_err(|interrupted| failure(&interrupted, Action::Redrive))?.done)
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.broker.close().await;
    }
}
