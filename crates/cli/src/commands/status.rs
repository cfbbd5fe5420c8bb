//! `echogen status`, `echogen cancel` and `echogen retry`: print the status of a job, cancel jobs, and run them again.

use std::{sync::Arc, time::Duration};

use clap::Args;
use echogen_protocol::{JobEvent, JobId, JobResult, JobStatus as End};
use echogen_service::{
    Exit, Failure, block_on,
    config::ServiceConfig,
    console::{print_error, print_json, print_line},
    operations::{
        cancel::Canceller,
        connect,
        retry::{Retried, Retrier},
        status::{JobStatus, StatusReader},
        wait::{JobWait, Observed, within},
    },
};
use echogen_worker::JobState;
use serde_json::json;

use crate::values;

pub(crate) const STATUS_EXAMPLES: &str = "\
Examples:
  What is known of a job; the exit code is 1 if it has failed:
    echogen status cat-1
  Follow it to its end, for ten minutes at most:
    echogen status cat-1 --watch --timeout 600

--watch survives a lost connection, and reads the result itself if an event was missed.";

/// `echogen status`.
#[derive(Args, Debug, Clone)]
pub(crate) struct StatusArguments {
    /// The job's id
    #[arg(value_name = "ID", value_parser = values::job_id)]
    pub(crate) id: JobId,

    /// Print every event until the job's end; a parked job has not ended
    #[arg(short, long)]
    pub(crate) watch: bool,

    /// Watch no longer than this many seconds; the exit code is then 124
    #[arg(long, value_name = "SECONDS", requires = "watch", value_parser = values::seconds)]
    pub(crate) timeout: Option<f64>,

    /// The job's `output.destination`, if it has one and Redis no longer knows the job
    #[arg(long, value_name = "PREFIX")]
    pub(crate) destination: Option<String>,

    /// Print download links for the pictures, valid for this many seconds (S3 only)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(crate) presign: Option<u64>,
}

/// `echogen cancel`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CancelArguments {
    /// The ids of the jobs
    #[arg(value_name = "ID", required = true, value_parser = values::job_id)]
    pub(crate) ids: Vec<JobId>,

    /// The jobs' `output.destination`, if they have one and Redis does not know the jobs
    #[arg(long, value_name = "PREFIX")]
    pub(crate) destination: Option<String>,
}

pub(crate) const RETRY_EXAMPLES: &str = "\
Examples:
  Run a job again whose picture could not be fetched:
    echogen retry cat-1
  Run every job again that a file names, where it did not complete:
    xargs echogen retry < failed-ids.txt

A job that failed, expired or was cancelled is sent again as it was; the parked tasks of a job are
redriven. A completed job is not run again. Jobs are kept in Redis for seven days, except those that
contain their picture: submit these once more with `echogen submit --again`.";

/// `echogen retry`.
#[derive(Args, Debug, Clone)]
pub(crate) struct RetryArguments {
    /// The ids of the jobs
    #[arg(value_name = "ID", required = true, value_parser = values::job_id)]
    pub(crate) ids: Vec<JobId>,

    /// The jobs' `output.destination`, if they have one and Redis does not know the jobs
    #[arg(long, value_name = "PREFIX")]
    pub(crate) destination: Option<String>,
}

/// Runs `echogen retry`.
pub(crate) fn retry(arguments: &RetryArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        let retrier = Retrier::open(config).await?;
        let mut exit = Exit::Success;
        for id in &arguments.ids {
            match retrier.retry(id, arguments.destination.as_deref()).await {
                Ok(retried) if as_json => {
                    print_json("retried", &json!({ "id": id, "parked": matches!(retried, Retried::Redriven(_)) }))
                }
                Ok(Retried::Sent(ended)) => {
                    let ended = format!("{ended:?}").to_lowercase();
                    print_line(&format!("{id} sent again, it had {ended}"));
                }
                Ok(Retried::Redriven(tasks)) => print_line(&format!("{id} redriven, {tasks} parked")),
                Err(failure) => {
                    print_error(format_args!("{}", failure.message));
                    exit = Exit::JobFailed;
                }
            }
        }
        retrier.close().await;
        Ok(exit)
    })
}

/// Runs `echogen status`.
pub(crate) fn status(arguments: &StatusArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        let reader = StatusReader::open(config, &arguments.id, arguments.destination.as_deref()).await?;
        let reader = Arc::new(reader);
        let status = if arguments.watch {
            watch(arguments, &reader, config, as_json).await?
        } else {
            let status = reader.check().await?;
            status.unreadable.iter().for_each(|error| warn(&Observed::Unreadable(&error.to_string())));
            status
        };
        let addresses = match (arguments.presign, &status.result) {
            (Some(seconds), Some(result)) => reader.presign(result, Duration::from_secs(seconds)).await?,
            _ => Vec::new(),
        };
        print(&arguments.id, &status, &addresses, as_json)
    })
}

async fn watch(
    arguments: &StatusArguments,
    reader: &Arc<StatusReader>,
    config: &ServiceConfig,
    as_json: bool,
) -> Result<JobStatus, Failure> {
    let broker = connect(config).await?;
    let each = |observed: Observed<'_>| match observed {
        Observed::Event(event) if as_json => print_json("event", event),
        Observed::Event(event) => print_line(&step(event)),
        trouble => warn(&trouble),
    };
    let mut waiting = JobWait::of_known_job(Arc::clone(&broker) as _, Arc::clone(reader)).await?;
    let status = within(values::limit(arguments.timeout), &arguments.id, waiting.result(each)).await;
    broker.close().await;
    status
}

/// Prints what keeps a wait from seeing the job.
pub(crate) fn warn(trouble: &Observed<'_>) {
    match trouble {
        Observed::Unreadable(why) => print_error(format_args!("warning: the job's status cannot be read: {why}")),
        Observed::Lost => print_error("warning: the connection to RabbitMQ was lost; connecting again"),
        Observed::Event(_) => {}
    }
}

fn step(event: &JobEvent) -> String {
    let word = event.kind.as_str();
    let scale = event.data.get("scale").zip(event.data.get("scales"));
    let more = scale.map_or_else(String::new, |(scale, of)| format!(" scale {scale} of {of}"));
    format!("{} {word}{more}", event.time)
}

fn print(id: &JobId, status: &JobStatus, addresses: &[String], as_json: bool) -> Result<Exit, Failure> {
    if !status.is_known() {
        let hint = "it may not have come to a dispatcher yet, or have another --destination";
        return Err(Failure::usage(format!("nothing is known of the job {id}; {hint}")));
    }
    let JobStatus { state, result, .. } = status;
    if as_json {
        print_json("status", &json!({ "id": id, "state": state, "result": result, "addresses": addresses }));
    } else {
        print_line(&in_words(id, state.as_ref(), result.as_ref()));
        result.iter().flat_map(pictures).for_each(|line| print_line(&line));
        addresses.iter().for_each(|address| print_line(&format!("  {address}")));
    }
    let failed = result.as_ref().is_some_and(|result| result.status != End::Completed);
    Ok(if failed { Exit::JobFailed } else { Exit::Success })
}

/// A line for each picture, and for each that is withheld.
fn pictures(result: &JobResult) -> Vec<String> {
    let images = result.images.iter();
    let images =
        images.map(|image| format!("  {} (seed {}, {} x {})", image.key, image.seed, image.width, image.height));
    let withheld = result.withheld.iter();
    let withheld = withheld.map(|image| format!("  withheld (seed {}): {}", image.seed, image.reason));
    images.chain(withheld).collect()
}

fn in_words(id: &JobId, state: Option<&JobState>, result: Option<&JobResult>) -> String {
    match (result, state) {
        (Some(result), _) => {
            let word = serde_json::to_value(result.status).unwrap_or_default();
            let why = result.error.as_ref().map_or_else(String::new, |error| format!(": {}", error.message));
            format!("{id}: {} at {}{why}", word.as_str().unwrap_or("ended"), result.finished)
        }
        (None, Some(state)) => {
            let stage = state.stage.as_deref().unwrap_or("a client");
            let word = state.state.as_str();
            let scale = state.progress.map(|done| format!(", scale {} of {}", done.scale, done.scales));
            let scale = scale.unwrap_or_default();
            format!("{id}: {word} at {}, by the {stage}, attempt {}{scale}", state.updated, state.attempt)
        }
        (None, None) => format!("{id}: unknown"),
    }
}

/// Runs `echogen cancel`.
pub(crate) fn cancel(arguments: &CancelArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        let canceller = Canceller::open(config).await?;
        let mut exit = Exit::Success;
        for id in &arguments.ids {
            if cancel_one(&canceller, id, arguments.destination.as_deref(), as_json).await? != End::Cancelled {
                exit = Exit::JobFailed;
            }
        }
        canceller.close().await;
        Ok(exit)
    })
}

/// Cancels one job and prints the outcome; returns how it ended.
async fn cancel_one(
    canceller: &Canceller,
    id: &JobId,
    destination: Option<&str>,
    as_json: bool,
) -> Result<End, Failure> {
    let cancelled = canceller.cancel(id, destination).await?;
    if cancelled.status == End::Cancelled && !cancelled.is_sure {
        // The "cancelled" result was written to the default path, which a job with a destination of its own may not
        // read.
        let hint = "if it has a destination of its own it may go on; give --destination";
        print_error(format_args!("warning: the job status store knows nothing of {id}: {hint}"));
    }
    let status = serde_json::to_value(cancelled.status).unwrap_or_default();
    if as_json {
        print_json("cancel", &json!({ "id": id, "status": status, "new": cancelled.is_new }));
    } else if cancelled.is_new {
        print_line(&format!("{id}: cancelled"));
    } else {
        print_line(&format!("{id}: had ended already, as {}", status.as_str().unwrap_or("ended")));
    }
    Ok(cancelled.status)
}

#[cfg(test)]
mod tests {
    use echogen_protocol::{ContentHash, EventKind, Job, ResultImage, ScaleProgress, WithheldImage};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn pictures_that_are_withheld_are_named_beside_the_others() {
        let sha256 = ContentHash::of(b"picture");
        let image = ResultImage { key: "a/image-0.png".into(), seed: 7, width: 64, height: 32, sha256, safety: None };
        let job = Job::new("dog.png".into(), "a dog");
        let mut result = JobResult::completed(&job, vec![image], "1", Timestamp::UNIX_EPOCH);
        result.withheld.push(WithheldImage { index: 1, seed: 8, reason: "no dogs".into() });
        assert_eq!(pictures(&result), ["  a/image-0.png (seed 7, 64 x 32)", "  withheld (seed 8): no dogs"]);
    }

    #[test]
    fn a_job_that_is_sampled_says_how_far_it_is() {
        let state = |progress: serde_json::Value| {
            serde_json::from_value::<JobState>(json!({
                "state": EventKind::Sampling, "stage": "sampler", "attempt": 1, "result_key": "a/result.json",
                "progress": progress, "updated": Timestamp::UNIX_EPOCH,
            }))
        };
        let id = JobId("a".to_owned());
        let words = |progress| in_words(&id, Some(&state(progress).unwrap()), None);
        let begin = "a: sampling at 1970-01-01T00:00:00Z, by the sampler, attempt 1";
        assert_eq!(words(json!(ScaleProgress { scale: 3, scales: 20 })), format!("{begin}, scale 3 of 20"));
        assert_eq!(words(json!(null)), begin);
    }
}
