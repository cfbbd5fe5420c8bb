//! `echogen canary`: one tiny job through the whole system, from the intake queue to the news of its end.
//!
//! Each has a picture of its own, so that no stage finds its work done; and it listens for its own end only, so that a
//! busy system's events do not reach it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use echogen_adapters::amqp::AmqpBroker;
use echogen_imaging::{ImageFormat, RgbImage, encode_image};
use echogen_ports::{Broker, EventStream, Message, PortError, QueueName};
use echogen_protocol::{EventKind, IfNotFound, ImageSource, Job, JobEvent, JobId};
use echogen_telemetry::{Consuming, Telemetry, health, metrics};
use echogen_worker::Clock;
use futures::future::select_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info_span, warn};

use super::{submit::in_new_trace, watch, watch_arguments::CanaryArguments};
use crate::{
    failure::{Exit, Failure},
    report::{print_json, print_line},
    session::{block_on, stop_token},
};

/// Where what it leaves lies among the results.
const DESTINATION: &str = "canary";

/// Side of the picture in pixels.
const SIDE: u32 = 64;

/// The ways in which a job can end.
const ENDS: [EventKind; 5] =
    [EventKind::Completed, EventKind::Failed, EventKind::Expired, EventKind::Cancelled, EventKind::Parked];

/// How a canary ended.
struct Flight {
    outcome: &'static str,
    seconds: f64,
    /// What to know of one that did not complete.
    why: Option<String>,
}

/// Runs `echogen canary`.
pub(crate) fn run(arguments: &CanaryArguments, telemetry: &Telemetry, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        metrics().expect_canary();
        let Some(every) = arguments.every else {
            let broker = arguments.broker.connect().await?;
            let flight = fly(&broker, arguments, as_json).await;
            broker.close().await;
            return Ok(if flight.outcome == "completed" { Exit::Success } else { Exit::JobFailed });
        };
        let (tracker, end, stop) = (TaskTracker::new(), CancellationToken::new(), stop_token());
        watch::serve(&arguments.watch, telemetry.log(), &tracker, &end).await?;
        let connecting = arguments.broker.connect();
        let Some(broker) = stop.run_until_cancelled(Box::pin(connecting)).await else { return Ok(Exit::Success) };
        let broker = Arc::new(broker?);
        // A canary consumes nothing; what it has to say is in its metrics.
        health().loaded("canary", || Consuming { now: true, since: Duration::ZERO });
        loop {
            let next = tokio::time::Instant::now() + Duration::try_from_secs_f64(every).unwrap_or(Duration::MAX);
            tokio::select! {
                _ = fly(&broker, arguments, as_json) => {}
                () = stop.cancelled() => break,
            }
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = stop.cancelled() => break,
            }
        }
        broker.close().await;
        Ok(Exit::Success)
    })
}

/// Sends one, waits for its end, and tells.
async fn fly(broker: &AmqpBroker, arguments: &CanaryArguments, as_json: bool) -> Flight {
    let (began, limit) = (Instant::now(), Duration::try_from_secs_f64(arguments.limit).unwrap_or(Duration::MAX));
    let job = job(arguments, Clock::system().now());
    let ended = timeout(limit, there_and_back(broker, &job)).await;
    let took = if ended.is_err() { limit } else { began.elapsed() };
    let (outcome, why) = match ended {
        Ok(Ok(event)) if event.kind == EventKind::Completed => ("completed", None),
        Ok(Ok(event)) => ("failed", Some(reason(&event))),
        Ok(Err(error)) => ("unsent", Some(error.to_string())),
        Err(_) => ("late", Some(format!("it did not come back within {} seconds", limit.as_secs_f64()))),
    };
    let flight = Flight { outcome, seconds: took.as_secs_f64(), why };
    metrics().canary_ended(outcome, took);
    tell(&job.id, &flight, as_json);
    flight
}

async fn there_and_back(broker: &AmqpBroker, job: &Job) -> Result<JobEvent, PortError> {
    let mut ends = Vec::new();
    for kind in ENDS {
        let topic = JobEvent::new(kind, &job.id, Timestamp::UNIX_EPOCH, Value::Null).topic();
        ends.push(broker.subscribe(&topic).await?);
    }
    let message = Message::of_job(job, Clock::system().now());
    let message = in_new_trace(message, &info_span!("canary", job = %job.id), "canary");
    broker.publish(&QueueName::dispatch(job.lane), message).await?;
    first(&mut ends).await
}

/// The first event of several streams.
async fn first(streams: &mut [Box<dyn EventStream>]) -> Result<JobEvent, PortError> {
    loop {
        let (event, _, _) = select_all(streams.iter_mut().map(|stream| stream.next())).await;
        let gone = || PortError::transient("the broker went away while the canary was on its way");
        if let Some(event) = event.ok_or_else(gone)?.to_job() {
            return Ok(event);
        }
    }
}

fn job(arguments: &CanaryArguments, now: Timestamp) -> Job {
    let mark = now.as_nanosecond();
    let image = format!("data:image/png;base64,{}", BASE64_STANDARD.encode(picture(mark.unsigned_abs())));
    let limit = SignedDuration::try_from_secs_f64(arguments.limit).unwrap_or(SignedDuration::MAX);
    let mut job = Job::new(ImageSource(image), "a ball on a meadow");
    job.id = JobId(format!("canary-{mark}-{}", std::process::id()));
    job.lane = arguments.lane;
    job.pixel_budget = arguments.pixels;
    job.subject.name = Some("ball".to_owned());
    job.subject.if_not_found = IfNotFound::WholeImage;
    job.output.destination = Some(DESTINATION.to_owned());
    // One that comes late is not worth its work any more.
    job.deadline = now.checked_add(limit).ok();
    job
}

/// A ball on white, with the mark's bits as its pattern: 16 by 8 squares of 2 x 2 pixels in its middle.
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
    // A picture of a fixed size can be written.
    encode_image(&image, ImageFormat::Png, 100).unwrap_or_default()
}

fn reason(event: &JobEvent) -> String {
    let why = event.data.pointer("/error/message").or_else(|| event.data.get("reason"));
    let why = why.and_then(Value::as_str).map_or_else(String::new, |why| format!(": {why}"));
    format!("{}{why}", event.kind.as_str())
}

fn tell(id: &JobId, flight: &Flight, as_json: bool) {
    let Flight { outcome, seconds, why } = flight;
    if let Some(why) = why {
        warn!(job = %id, outcome, why, "the canary did not complete");
    }
    if as_json {
        print_json("canary", &json!({ "id": id, "outcome": outcome, "seconds": seconds, "why": why }));
    } else {
        let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        print_line(&format!("{outcome} after {seconds:.3} s{why}"));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn no_two_canaries_share_a_picture_and_every_one_is_a_job() {
        for bit in 0..u128::BITS {
            assert_ne!(picture(0), picture(1 << bit), "bit {bit} is to be seen");
        }
        assert!(picture(1).len() < 2_000, "a tiny job: {}", picture(1).len());
        let command = crate::arguments::Arguments::try_parse_from(["echogen", "canary"]).unwrap().command;
        let crate::arguments::Command::Canary(arguments) = command else { panic!("not canary") };
        let job = job(&arguments, Timestamp::UNIX_EPOCH);
        job.validate().unwrap();
        assert_eq!(job.deadline.unwrap().as_second(), 120);
        assert!(job.result_key().starts_with("canary/canary-0-"));
    }
}
