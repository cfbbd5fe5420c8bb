//! A client: publishes jobs and retries until the broker has confirmed them.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_adapters::amqp::AmqpBroker;
use echogen_ports::{Broker, Fault, Message};
use echogen_protocol::{ImageSource, Job, JobId};
use futures::stream::{self, StreamExt};
use jiff::Timestamp;

use crate::constant::picture;

/// Maximum number of unconfirmed messages.
const IN_FLIGHT: usize = 256;

/// Creates a job with the picture of number `subject`; jobs with the same number share a subject.
pub fn job(id: &str, subject: u64, prompt: &str) -> Job {
    let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(picture(subject)));
    Job { id: JobId(id.to_owned()), ..Job::new(ImageSource(image), prompt) }
}

/// Publishes one job, and retries while the broker is unavailable.
pub async fn send(broker: &AmqpBroker, job: &Job) -> Result<(), Fault> {
    loop {
        match broker.publish(&job.intake(broker.partitions()), Message::of_job(job, Timestamp::now())).await {
            Err(error) if !error.is_permanent() => tokio::time::sleep(Duration::from_millis(200)).await,
            ended => return ended,
        }
    }
}

/// Publishes many jobs, with a bounded number in flight. With a `pause` above zero, they are published at that
/// interval.
pub async fn send_all(broker: &Arc<AmqpBroker>, jobs: Vec<Job>, pause: Duration) -> Result<(), Fault> {
    let sending = jobs.into_iter().enumerate().map(|(index, job)| {
        let broker = Arc::clone(broker);
        async move {
            if !pause.is_zero() {
                tokio::time::sleep(pause * u32::try_from(index % IN_FLIGHT).unwrap_or(0)).await;
            }
            send(&broker, &job).await
        }
    });
    let mut sending = stream::iter(sending).buffer_unordered(IN_FLIGHT);
    while let Some(sent) = sending.next().await {
        sent?;
    }
    Ok(())
}
