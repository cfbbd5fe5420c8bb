//! The canary: one tiny job through the whole system, from the intake queue to its completion event.
//!
//! Each canary has a unique picture, so that no stage finds a cached product. It subscribes only to the events of its own job,
//! again if the connection is lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_imaging::{ImageFormat, RgbImage, encode_image};
use echogen_ports::{Broker, Message};
use echogen_protocol::{EventKind, IfNotFound, ImageSource, Job, JobEvent, JobId, Lane, PixelBudget, StageTask};
use echogen_telemetry::{Consuming, Telemetry, health, metrics};
use echogen_worker::{Clock, in_sending_span};
use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, warn};

use super::{
    Incoming, JobEvents, connect,
    events::{is_last, reason},
};
use crate::{Exit, Failure, config::ServiceConfig, monitor, signals::stop_token};

/// Where a canary's pictures and result are stored, among the results.
const DESTINATION: &str = "canary";

/// Side of the picture in pixels.
const SIDE: u32 = 64;

/// The settings of a canary.
#[derive(Clone, Debug)]
pub struct Canary {
    /// Timeout from the publish to the completion event.
    pub limit: Duration,
    /// Its lane.
    pub lane: Lane,
    /// Size of its picture; by default the bundle's.
    pub pixels: Option<PixelBudget>,
}

/// The outcome of a canary.
#[derive(Clone, Debug)]
pub struct CanaryReport {
    /// Its job.
    pub id: JobId,
    /// `completed`, `failed`, `unsent` or `late`.
    pub outcome: &'static str,
    /// Seconds from the publish to the end, or the timeout.
    pub seconds: f64,
    /// Why it did not complete.
    pub why: Option<String>,
}

impl Canary {
    /// Publishes one canary to the servers that the settings name, and waits for its end.
    pub async fn once(&self, config: &ServiceConfig) -> Result<CanaryReport, Failure> {
        metrics().expect_canary();
        let broker = connect(config).await?;
        let report = self.send(&(Arc::clone(&broker) as _)).await;
        broker.close().await;
        Ok(report)
    }

    /// Publishes canaries at an interval until the first signal, and serves health and metrics. `each` is called with
    /// every outcome.
    pub async fn repeat(
        &self,
        every: Duration,
        config: &ServiceConfig,
        telemetry: &Telemetry,
        mut each: impl FnMut(&CanaryReport),
    ) -> Result<Exit, Failure> {
        metrics().expect_canary();
        let stop = stop_token();
        monitor::serve(config, telemetry.log(), &TaskTracker::new()).await?;
        let connecting = Box::pin(connect(config));
        let Some(broker) = stop.run_until_cancelled(connecting).await else { return Ok(Exit::Success) };
        let broker = broker?;
        // A canary consumes no queue, so it is always ready; its outcome is in its metrics.
        health().loaded("canary", || Consuming { now: true, since: Duration::ZERO });
        self.send_until(&stop, every, &(Arc::clone(&broker) as _), &mut each).await;
        broker.close().await;
        Ok(Exit::Success)
    }

    async fn send_until(
        &self,
        stop: &CancellationToken,
        every: Duration,
        broker: &Arc<dyn Broker>,
        each: &mut impl FnMut(&CanaryReport),
    ) {
        loop {
            let next = tokio::time::Instant::now() + every;
            let Some(report) = stop.run_until_cancelled(self.send(broker)).await else { return };
            each(&report);
            if stop.run_until_cancelled(tokio::time::sleep_until(next)).await.is_none() {
                return;
            }
        }
    }

    /// Publishes one canary, waits for its end, and updates the metrics.
    async fn send(&self, broker: &Arc<dyn Broker>) -> CanaryReport {
        let (began, limit) = (Instant::now(), self.limit);
        let job = self.job(Clock::system().now());
        let ended = timeout(limit, there_and_back(broker, &job)).await;
        let took = if ended.is_err() { limit } else { began.elapsed() };
        let (outcome, why) = match ended {
            Ok(Ok(event)) if event.kind == EventKind::Completed => ("completed", None),
            Ok(Ok(event)) => ("failed", Some(failed(&event))),
            Ok(Err(error)) => ("unsent", Some(error.to_string())),
            Err(_) => ("late", Some(format!("it did not come back within {} seconds", limit.as_secs_f64()))),
        };
        metrics().canary_ended(outcome, took);
        if let Some(why) = &why {
            warn!(job = %job.id, outcome, why, "the canary did not complete");
        }
        CanaryReport { id: job.id, outcome, seconds: took.as_secs_f64(), why }
    }

    fn job(&self, now: Timestamp) -> Job {
        let mark = now.as_nanosecond();
        let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(picture(mark.unsigned_abs())));
        let limit = SignedDuration::try_from(self.limit).unwrap_or(SignedDuration::MAX);
        let mut job = Job::new(ImageSource(image), "a ball on a meadow");
        job.id = JobId(format!("canary-{mark}-{}", std::process::id()));
        job.lane = self.lane;
        job.pixel_budget = self.pixels;
        job.subject.name = Some("ball".to_owned());
        job.subject.if_not_found = IfNotFound::WholeImage;
        job.output.destination = Some(DESTINATION.to_owned());
        // After the timeout the job should not use up resources.
        job.deadline = now.checked_add(limit).ok();
        job
    }
}

async fn there_and_back(broker: &Arc<dyn Broker>, job: &Job) -> Result<JobEvent, Failure> {
    // The subscription must exist before the job is published, because its end may come at once.
    let mut events = JobEvents::subscribe(Arc::clone(broker), &job.id).await?;
    let queue = job.queue();
    let (message, span) = in_sending_span(Message::of_job(job, Clock::system().now()), &queue, job.id.as_str());
    let published = broker.publish(&queue, message).instrument(span).await;
    published.map_err(|error| Failure::refused("the canary was not sent", &error))?;
    loop {
        if let Incoming::Event(event) = events.next().await
            && is_last(&event, None)
        {
            return Ok(*event);
        }
    }
}

fn failed(event: &JobEvent) -> String {
    let why = reason(event).map_or_else(String::new, |why| format!(": {why}"));
    format!("{}{why}", event.kind.as_str())
}

/// Draws a ball on white, with the bits of `mark` as its pattern: 16 by 8 squares of 2 x 2 pixels in the middle.
fn picture(mark: u128) -> Vec<u8> {
    let (left, top) = (SIDE / 2 - 16, SIDE / 2 - 8);
    let image = RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (right, down) = (x.abs_diff(SIDE / 2), y.abs_diff(SIDE / 2));
        if right * right + down * down > (SIDE / 3) * (SIDE / 3) {
            return [255, 255, 255].into();
        }
        let is_set = (left..left + 32).contains(&x)
            && (top..top + 16).contains(&y)
            && mark >> ((y - top) / 2 * 16 + (x - left) / 2) & 1 == 1;
        if is_set { [220, 60, 40].into() } else { [250, 200, 60].into() }
    });
    // Encoding cannot fail for a picture of this fixed size.
    encode_image(&image, ImageFormat::Png, 100).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_canaries_share_a_picture_and_every_one_is_a_job() {
        for bit in 0..u128::BITS {
            assert_ne!(picture(0), picture(1 << bit), "bit {bit} is to be seen");
        }
        assert!(picture(1).len() < 2_000, "a tiny job: {}", picture(1).len());
        let canary = Canary { limit: Duration::from_secs(120), lane: Lane::Interactive, pixels: None };
        let job = canary.job(Timestamp::UNIX_EPOCH);
        job.validate().unwrap();
        assert_eq!(job.deadline.unwrap().as_second(), 120);
        assert!(job.result_key().starts_with("canary/canary-0-"));
    }
}
