//! A client: sends jobs until the broker has them.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_adapters::amqp::AmqpBroker;
use echogen_ports::{Broker, Fault, Message};
use echogen_protocol::{ImageSource, Job, JobId, StageTask};
use futures::stream::{self, StreamExt};
use jiff::Timestamp;

use crate::constant::picture;

/// Messages on their way at once.
const IN_FLIGHT: usize = 256;

/// A job with the picture of a number; jobs of one number share a subject.
pub fn job(id: &str, subject: u64, prompt: &str) -> Job {
    let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(picture(subject)));
    Job { id: JobId(id.to_owned()), ..Job::new(ImageSource(image), prompt) }
}

/// Sends one job, again and again while the broker is away.
pub async fn send(broker: &AmqpBroker, job: &Job) -> Result<(), Fault> {
    loop {
        match broker.publish(&job.queue(), Message::of_job(job, Timestamp::now())).await {
            Err(error) if !error.is_permanent() => tokio::time::sleep(Duration::from_millis(200)).await,
            ended => return ended,
        }
    }
}

/// Sends many, a bounded number at once; `pause` apart if that is not zero.
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
