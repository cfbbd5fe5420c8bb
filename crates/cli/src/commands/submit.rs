//! `echogen submit`: one job, or a file of them, to the intake queues.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use echogen_protocol::{EventKind, ImageSource, Job, JobId};
use echogen_service::{
    Exit, Failure, JobFields, block_on,
    config::{JobDefaults, ServiceConfig},
    console::{print_error, print_json, print_line},
    interrupted,
    operations::{
        again_now,
        submit::{Batch, BatchOptions, BatchSummary, LineEnd, Submitter, in_words},
        wait::{JobWait, Observed, within},
    },
    stop_token,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::status;
use crate::values;

pub(crate) const SUBMIT_EXAMPLES: &str = "\
Examples:
  Submit one job and wait for its end:
    echogen submit --subject cat.png --prompt \"a cat on a beach\" --wait --timeout 600
  Submit a file of jobs, one JSON object per line; run it again to resume and to send failed lines
  again:
    echogen submit --batch manifest.jsonl --lane bulk

The progress is recorded beside the file, in manifest.jsonl.submitted. Lines may be added, and lines
that failed may be corrected; for another file, broker or prefix use --restart.

--wait survives a lost connection. With --store-url the result is also looked up there, so that no
end is missed; with --cache-url it is noticed as well that the job was parked.

A picture that is a file is uploaded to the store if --store-url is given; otherwise it becomes a
part of the job, which may have at most 8 MiB.";

/// `echogen submit`.
#[derive(Args, Debug, Clone)]
pub(crate) struct SubmitArguments {
    /// Picture of the subject: a file, `data:`, `https://` or `s3://`
    #[arg(short, long, value_name = "PICTURE", required_unless_present = "batch")]
    pub(crate) subject: Option<String>,

    /// The scene, in words
    #[arg(short, long, value_name = "TEXT", required_unless_present = "batch")]
    pub(crate) prompt: Option<String>,

    /// What the subject is called, such as `dog`
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,

    /// Id of the job, its idempotency key; by default a hash of its other fields
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,

    /// File with one job per line; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["subject", "prompt", "name", "id"])]
    pub(crate) batch: Option<PathBuf>,

    /// Run the jobs again that failed, expired, or were cancelled or parked; completed ones stay as they are
    #[arg(long)]
    pub(crate) again: bool,

    /// Start a batch at its first line, and ignore what an earlier run has recorded
    #[arg(long, requires = "batch")]
    pub(crate) restart: bool,

    /// Wait for the job's end; the exit code is 1 if it fails or is parked
    #[arg(long, conflicts_with = "batch")]
    pub(crate) wait: bool,

    /// Wait no longer than this many seconds; the exit code is then 124, and the job goes on
    #[arg(long, value_name = "SECONDS", requires = "wait", value_parser = values::seconds)]
    pub(crate) timeout: Option<f64>,

    /// Messages in flight to the broker, not yet confirmed
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) in_flight: u32,
}

/// Runs `echogen submit`.
pub(crate) fn run(arguments: &SubmitArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        let submitter = Submitter::open(config).await?;
        let ended = match &arguments.batch {
            Some(path) => batch(path, arguments, &config.job, &submitter, as_json).await,
            None => one(arguments, config, &submitter, as_json).await,
        };
        submitter.close().await;
        ended
    })
}

async fn one(
    arguments: &SubmitArguments,
    config: &ServiceConfig,
    submitter: &Submitter,
    as_json: bool,
) -> Result<Exit, Failure> {
    let defaults = &config.job;
    let (subject, prompt) =
        (arguments.subject.clone().unwrap_or_default(), arguments.prompt.clone().unwrap_or_default());
    let mut job = Job::new(ImageSource(subject), prompt);
    job.id = JobId(arguments.id.clone().unwrap_or_default());
    job.subject.name.clone_from(&arguments.name);
    job.lane = defaults.lane.unwrap_or_default();
    job.tenant.clone_from(&defaults.tenant);
    job.callback.clone_from(&defaults.callback);
    defaults.apply(&mut job);
    job.again = if arguments.again { again_now() } else { 0 };
    let job = submitter.prepare(job).await.map_err(Failure::usage)?;
    // The subscription must exist before the job is published, because the job may end at once.
    let waiting = if arguments.wait { Some(submitter.wait_for(&job, config).await?) } else { None };
    submitter.send(&job).await.map_err(|error| Failure::refused("the job was not sent", &error))?;
    if as_json {
        print_json("submitted", &json!({ "id": job.id }));
    } else {
        print_line(job.id.as_str());
    }
    match waiting {
        Some(waiting) => wait(waiting, &job.id, values::limit(arguments.timeout), as_json).await,
        None => Ok(Exit::Success),
    }
}

async fn wait(mut waiting: JobWait, id: &JobId, timeout: Option<Duration>, as_json: bool) -> Result<Exit, Failure> {
    let each = |observed: Observed<'_>| match observed {
        Observed::Event(event) if as_json => print_json("event", event),
        Observed::Event(_) => {}
        trouble => status::warn(&trouble),
    };
    let last = tokio::select! {
        // The job has ended, or the time is up.
        last = within(timeout, id, waiting.end(each)) => last?,
        // A signal ends the wait; the job continues.
        () = interrupted() => return Ok(Exit::Interrupted),
    };
    if !as_json {
        print_line(&in_words(&last));
    }
    Ok(if last.kind == EventKind::Completed { Exit::Success } else { Exit::JobFailed })
}

async fn batch(
    path: &Path,
    arguments: &SubmitArguments,
    defaults: &JobDefaults,
    submitter: &Submitter,
    as_json: bool,
) -> Result<Exit, Failure> {
    let in_flight = usize::try_from(arguments.in_flight).unwrap_or(usize::MAX);
    let mut fields = fields(defaults);
    if arguments.again {
        fields.insert("again".to_owned(), json!(again_now()));
    }
    // Whoever asks again means the lines that were sent before.
    let options = BatchOptions { defaults: fields, in_flight, restart: arguments.restart || arguments.again };
    let batch = Batch::open(path, submitter, options).await?;
    let (bar, mut failed) = (bar(batch.total(), as_json), 0);
    let each = |end: &LineEnd| {
        bar.inc(1);
        failed += u64::from(matches!(end.sent, Some(Err(_))));
        print_end(end, &bar, as_json);
        bar.set_message(format!("{failed} failed"));
    };
    let summary = batch.send(&stop_token(), each).await;
    bar.finish_and_clear();
    Ok(summarised(&summary?, as_json))
}

/// Returns the default fields for lines that lack them.
fn fields(defaults: &JobDefaults) -> JobFields {
    let mut fields = defaults.fields();
    fields.extend(defaults.lane.map(|lane| ("lane".to_owned(), json!(lane))));
    fields.extend(defaults.tenant.as_ref().map(|tenant| ("tenant".to_owned(), json!(tenant))));
    fields.extend(defaults.callback.as_ref().map(|callback| ("callback".to_owned(), json!(callback))));
    fields
}

fn print_end(LineEnd { line, sent }: &LineEnd, bar: &ProgressBar, as_json: bool) {
    match sent {
        Some(Ok(id)) if as_json => print_json("submitted", &json!({ "line": line, "id": id })),
        Some(Err(error)) if as_json => print_json("submitted", &json!({ "line": line, "error": error })),
        Some(Err(error)) if bar.is_hidden() => print_error(format_args!("failed line {line}: {error}")),
        Some(Err(error)) => bar.println(format!("failed line {line}: {error}")),
        Some(Ok(_)) | None => {}
    }
}

/// Prints the outcome of the file; returns the exit code.
fn summarised(summary: &BatchSummary, as_json: bool) -> Exit {
    let BatchSummary { sent, failed, before, tried_again, stopped, noted } = *summary;
    if as_json {
        print_json("summary", &json!({ "sent": sent, "failed": failed, "before": before, "stopped": stopped }));
    } else {
        let before = match (before, tried_again) {
            (0, _) => String::new(),
            (line, false) => format!(", lines up to {line} were sent before (--restart sends them again)"),
            // None need have been sent: only those that failed were due.
            (line, true) => format!(", tried again those that failed before up to line {line} (--restart sends all)"),
        };
        print_line(&format!("{sent} sent, {failed} failed{before}"));
        if stopped {
            print_line("stopped; the same command goes on from here");
        } else if failed > 0 && noted {
            print_line("the same command tries the failed lines again");
        }
    }
    match (stopped, failed) {
        (true, _) => Exit::Interrupted,
        (false, 0) => Exit::Success,
        _ => Exit::JobFailed,
    }
}

fn bar(total: Option<u64>, as_json: bool) -> ProgressBar {
    let target = if as_json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(total, target);
    let template = match total {
        Some(_) => "{bar:30} {pos}/{len} sent, {msg}, {per_sec}, {eta} left",
        None => "{spinner} {pos} sent, {msg}, {per_sec}",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_message("0 failed");
    bar
}
