//! Publishes jobs to the intake queues: a single job, or a file of jobs.

mod batch;
mod note;
mod pictures;

use std::sync::Arc;

use echogen_adapters::amqp::AmqpBroker;
use echogen_ports::{Backoff, Broker, Fault, Message, Secret};
use echogen_protocol::{Job, JobEvent, Partitions};
use echogen_worker::{Clock, in_sending_span};

pub use batch::{Batch, BatchOptions, BatchSummary, LineEnd};

use self::{note::Target, pictures::Pictures};
use super::{connect, events::reason, wait::JobWait};
use crate::{
    Failure,
    backends::{Stores, store_url},
    config::ServiceConfig,
};

/// Maximum number of attempts for one job, with increasing delays between them, to wait for a full queue or a
/// restarting broker.
const TRIES: u32 = 8;

/// The delays between the attempts.
const WAITS: Backoff = Backoff::doubling(0.2, 12.8);

/// Publishes jobs.
pub struct Submitter {
    broker: Arc<dyn Broker>,
    pictures: Pictures,
    target: Target,
    partitions: Partitions,
    amqp: Option<Arc<AmqpBroker>>,
}

impl Submitter {
    /// Connects to the broker that the settings name. Picture files are uploaded before their jobs are published if
    /// the settings name a store; otherwise they are embedded in the jobs.
    pub async fn open(config: &ServiceConfig) -> Result<Self, Failure> {
        let amqp = connect(config).await?;
        let work = if store_url(config).is_some() { Some(Stores::open(config).await?.work) } else { None };
        let url = config.broker.url.as_ref().map_or("", Secret::expose);
        let target = Target::of(url, &config.broker.prefix);
        let (broker, partitions) = (Arc::clone(&amqp) as _, config.partitions());
        Ok(Self { broker, pictures: Pictures { work }, target, partitions, amqp: Some(amqp) })
    }

    /// Completes and validates a job: its picture becomes one that the dispatcher can read, and it gets an id derived
    /// from its content unless it has one.
    pub async fn prepare(&self, mut job: Job) -> Result<Job, String> {
        job.subject.image = self.pictures.sent_along(&job.subject.image).await?;
        // The id must be derived after the picture was replaced, so that the same picture under another path gives the
        // same job.
        let job = job.with_id();
        job.validate().map_err(|error| error.to_string())?;
        Ok(job)
    }

    /// Publishes a prepared job; returns after the broker has confirmed it.
    pub async fn send(&self, job: &Job) -> Result<(), Fault> {
        let queue = job.intake(self.partitions);
        let (message, _span) = in_sending_span(Message::of_job(job, Clock::system().now()), &queue, job.id.as_str());
        for failures in 1..TRIES {
            match self.broker.publish(&queue, message.clone()).await {
                Err(error) if !error.is_permanent() => {
                    let wait = WAITS.wait_asked(error.retry_after(), failures);
                    tracing::warn!(job = %job.id, %error, ?wait, "the job was not published, retrying");
                    tokio::time::sleep(wait).await;
                }
                ended => return ended,
            }
        }
        self.broker.publish(&queue, message).await
    }

    /// Prepares to wait for a job. Must be called before the job is published, or early events are missed.
    pub async fn wait_for(&self, job: &Job, config: &ServiceConfig) -> Result<JobWait, Failure> {
        JobWait::before_publishing(Arc::clone(&self.broker), config, job).await
    }

    /// Closes the connection.
    pub async fn close(self) {
        if let Some(amqp) = self.amqp {
            amqp.close().await;
        }
    }
}

/// Describes how a job ended, with the reason if there is one.
pub fn in_words(event: &JobEvent) -> String {
    let why = reason(event).map_or_else(String::new, |why| format!(": {why}"));
    format!("{}{why}", event.kind.as_str())
}
