//! `echogen status` and `echogen cancel`: the status of a job, and cancelling it.

use std::time::Duration;

use clap::Args;
use echogen_protocol::{JobEvent, JobId, JobResult, JobStatus as End};
use echogen_service::{
    Exit, Failure, block_on,
    config::ServiceConfig,
    console::{print_error, print_json, print_line},
    operations::{
        cancel::Canceller,
        connect,
        status::{JobStatus, Observed, StatusReader},
    },
};
use echogen_worker::JobState;
use serde_json::json;

use crate::values;

/// `echogen status`.
#[derive(Args, Debug, Clone)]
pub(crate) struct StatusArguments {
    /// The job's id
    #[arg(value_name = "ID", value_parser = values::job_id)]
    pub(crate) id: JobId,

    /// Print every event until the job's end
    #[arg(short, long)]
    pub(crate) watch: bool,

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

/// Runs `echogen status`.
pub(crate) fn status(arguments: &StatusArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        let reader = StatusReader::open(config, &arguments.id, arguments.destination.as_deref()).await?;
        let status = if arguments.watch {
            let broker = connect(config).await?;
            let status = reader.watch(&*broker, |observed| show(&observed, as_json)).await;
            broker.close().await;
            status?
        } else {
            let status = reader.check().await?;
            status.unreadable.iter().for_each(|error| show(&Observed::Unreadable(error), as_json));
            status
        };
        let addresses = match (arguments.presign, &status.result) {
            (Some(seconds), Some(result)) => reader.presign(result, Duration::from_secs(seconds)).await?,
            _ => Vec::new(),
        };
        print(&arguments.id, &status, &addresses, as_json)
    })
}

fn show(observed: &Observed<'_>, as_json: bool) {
    match observed {
        Observed::Unreadable(error) => {
            print_error(format_args!("warning: the job status store cannot be read: {error}"));
        }
        Observed::Event(event) if as_json => print_json("event", event),
        Observed::Event(event) => print_line(&step(event)),
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
        for image in result.iter().flat_map(|result| &result.images) {
            print_line(&format!("  {} (seed {}, {} x {})", image.key, image.seed, image.width, image.height));
        }
        addresses.iter().for_each(|address| print_line(&format!("  {address}")));
    }
    let failed = result.as_ref().is_some_and(|result| result.status != End::Completed);
    Ok(if failed { Exit::JobFailed } else { Exit::Success })
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
            format!("{id}: {word} at {}, by the {stage}, attempt {}", state.updated, state.attempt)
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

/// Cancels one job and says so; returns how it ended.
async fn cancel_one(
    canceller: &Canceller,
    id: &JobId,
    destination: Option<&str>,
    as_json: bool,
) -> Result<End, Failure> {
    let cancelled = canceller.cancel(id, destination).await?;
    if cancelled.status == End::Cancelled && !cancelled.is_sure {
        // The result was written where only a job without a destination is sure to find it.
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
