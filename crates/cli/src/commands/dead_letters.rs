//! `echogen dead-letters`: lists, redrives or deletes dead letters.

use std::time::Duration;

use clap::{Args, Subcommand};
use echogen_protocol::json::{self, Bounds};
use echogen_service::{
    Exit, Failure, block_on,
    config::ServiceConfig,
    console::{print_error, print_json, print_line},
    operations::{
        connect,
        dead_letters::{Action, Chosen, DeadLetter, Outcome, Progress, ReasonCounts, act, failure},
    },
    stop_token,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use serde_json::json;

use crate::values::{self, Queues};

pub(crate) const DEAD_LETTERS_EXAMPLES: &str = "\
Examples:
  How many tasks are parked, where and why?
    echogen dead-letters list --by-reason
  Each of them, with job, queue, age, failed attempts and reason:
    echogen dead-letters list
  One with its headers and body:
    echogen dead-letters show cat-1
  Publish all of them again after the cause is corrected:
    echogen dead-letters redrive --all
  Only those that failed for one reason, ten at first:
    echogen dead-letters redrive --queue sampler --reason 'out of memory' --limit 10
  Delete what has been there for a week:
    echogen dead-letters drop --older-than 7d

Each run handles the tasks that are parked when it begins: one that is parked again meanwhile is left
for the next run. Ctrl-C ends a run with the number of tasks so far; the others stay parked.";

/// Conditions on dead letters.
#[derive(Args, Debug, Clone)]
pub(crate) struct Conditions {
    /// Only tasks that failed in this queue or stage, such as `sampler`; can be repeated
    #[arg(long = "queue", value_name = "QUEUE", value_parser = values::queues)]
    pub(crate) queues: Vec<Queues>,

    /// Only tasks whose reason contains this text, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,

    /// Only tasks that have been parked for at least this long, such as `90s`, `15m`, `2h` or `3d`
    #[arg(long, value_name = "AGE", value_parser = values::age)]
    pub(crate) older_than: Option<Duration>,

    /// At most so many, the oldest of each queue first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

/// Which dead letters, for commands that must not act on all of them by mistake.
#[derive(Args, Debug, Clone)]
pub(crate) struct ChosenOptions {
    /// Tasks of these jobs
    #[arg(value_name = "JOB", required_unless_present_any = ["all", "queues", "reason", "older_than"])]
    pub(crate) jobs: Vec<String>,

    /// All parked tasks
    #[arg(long, conflicts_with_all = ["jobs", "queues", "reason", "older_than"])]
    pub(crate) all: bool,

    #[command(flatten)]
    pub(crate) conditions: Conditions,
}

/// Which dead letters are listed.
#[derive(Args, Debug, Clone)]
pub(crate) struct ListArguments {
    /// Tasks of these jobs; by default of all
    #[arg(value_name = "JOB")]
    pub(crate) jobs: Vec<String>,

    #[command(flatten)]
    pub(crate) conditions: Conditions,

    /// Print only how many there are for each reason
    #[arg(long)]
    pub(crate) by_reason: bool,
}

/// What to do with them.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List parked tasks with job, queue, age, failed attempts and reason
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    List(ListArguments),
    /// Print headers and body
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    Show(ChosenOptions),
    /// Publish again to the queue where it failed; attempts start at zero
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    Redrive(ChosenOptions),
    /// Delete
    #[command(after_help = DEAD_LETTERS_EXAMPLES)]
    Drop(ChosenOptions),
}

/// What is printed of a dead letter.
#[derive(Clone, Copy, PartialEq)]
enum Printed {
    Nothing,
    Line,
    Whole,
}

/// Runs `echogen dead-letters`.
pub(crate) fn run(command: &DeadLettersCommand, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    let (action, printed, chosen) = match command {
        DeadLettersCommand::List(arguments) => {
            let printed = if arguments.by_reason { Printed::Nothing } else { Printed::Line };
            (Action::List, printed, chosen(&arguments.jobs, &arguments.conditions))
        }
        DeadLettersCommand::Show(options) => (Action::List, Printed::Whole, chosen(&options.jobs, &options.conditions)),
        DeadLettersCommand::Redrive(options) => {
            (Action::Redrive, acted(as_json), chosen(&options.jobs, &options.conditions))
        }
        DeadLettersCommand::Drop(options) => {
            (Action::Delete, acted(as_json), chosen(&options.jobs, &options.conditions))
        }
    };
    let mut display = Display::new(printed, as_json);
    block_on(async {
        let broker = connect(config).await?;
        // Only from here on: while connecting, a signal ends the program at once.
        let stop = stop_token();
        let ended = act(&*broker, action, &chosen, &stop, |progress| display.show(progress)).await;
        display.bar.finish_and_clear();
        broker.close().await;
        let outcome = ended.map_err(|interrupted| failure(&interrupted, action))?;
        display.finish(action, outcome);
        Ok(exit(outcome, &chosen))
    })
}

/// What is printed of letters that are acted on: scripts learn of each.
fn acted(as_json: bool) -> Printed {
    if as_json { Printed::Line } else { Printed::Nothing }
}

fn chosen(jobs: &[String], conditions: &Conditions) -> Chosen {
    Chosen {
        jobs: jobs.iter().cloned().collect(),
        queues: conditions.queues.iter().flat_map(|queues| queues.0.clone()).collect(),
        tenant: None,
        reason: conditions.reason.clone(),
        older_than: conditions.older_than,
        limit: conditions.limit,
    }
}

fn exit(outcome: Outcome, chosen: &Chosen) -> Exit {
    // If a named job has no dead letter, that is an error.
    let is_missing = outcome.done == 0 && !chosen.jobs.is_empty();
    match outcome {
        Outcome { stopped: true, .. } => Exit::Interrupted,
        Outcome { refused: 0, .. } if !is_missing => Exit::Success,
        _ => Exit::JobFailed,
    }
}

/// Shows a run.
struct Display {
    printed: Printed,
    as_json: bool,
    now: Timestamp,
    /// Hidden while letters are printed, and where there is no terminal.
    bar: ProgressBar,
    reasons: ReasonCounts,
}

impl Display {
    fn new(printed: Printed, as_json: bool) -> Self {
        let is_hidden = as_json || printed != Printed::Nothing;
        let target = if is_hidden { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} read, {per_sec}, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { printed, as_json, now: Timestamp::now(), bar, reasons: ReasonCounts::default() }
    }

    fn show(&mut self, progress: Progress<'_>) {
        match progress {
            Progress::Total(total) => return self.bar.set_length(total),
            Progress::Passed => {}
            Progress::Done(letter) => {
                self.reasons.add(letter);
                self.print(letter);
            }
            Progress::Refused(letter, fault) => {
                let job = letter.job.as_deref().unwrap_or("?");
                self.bar.suspend(|| print_error(format_args!("the task of {job} stays parked: {fault}")));
            }
        }
        self.bar.inc(1);
    }

    fn print(&self, letter: &DeadLetter) {
        if self.printed == Printed::Nothing {
            return;
        }
        let is_whole = self.printed == Printed::Whole;
        if self.as_json {
            return print_json("dead-letter", &as_value(letter, self.now, is_whole));
        }
        print_line(&in_words(letter, self.now));
        if is_whole {
            letter.message.headers.iter().for_each(|(name, text)| print_line(&format!("  {name}: {text}")));
            print_line(&format!("  {}", String::from_utf8_lossy(&letter.message.body)));
        }
    }

    /// Prints the outcome.
    fn finish(&self, action: Action, outcome: Outcome) {
        let Outcome { done, read, refused, stopped } = outcome;
        if action == Action::List && self.printed == Printed::Nothing {
            self.print_reasons();
        }
        if self.as_json {
            let summary = json!({ action.done(): done, "read": read, "refused": refused, "stopped": stopped });
            return print_json("summary", &summary);
        }
        let stopped = if stopped { ", stopped before the end" } else { "" };
        print_line(&format!("{done} {}{stopped}", action.done()));
    }

    fn print_reasons(&self) {
        for count in self.reasons.sorted() {
            let queue = count.queue.as_ref().map_or("", |queue| queue.as_str());
            if self.as_json {
                let value =
                    json!({ "queue": count.queue.map(|queue| queue.0), "reason": count.reason, "count": count.count });
                print_json("reason", &value);
            } else {
                print_line(&format!("{:>7}  {queue}  {}", count.count, count.reason));
            }
        }
    }
}

fn as_value(letter: &DeadLetter, now: Timestamp, is_whole: bool) -> serde_json::Value {
    let mut value = json!({
        "job": letter.job.as_deref().unwrap_or("?"),
        "queue": letter.queue.as_str(),
        "stage": letter.stage().map(|stage| stage.as_str()),
        "reason": letter.reason(),
        "failures": letter.headers.failures,
        "redeliveries": letter.headers.redeliveries,
        "since": letter.since(),
        "age_seconds": letter.age_seconds(now),
    });
    if is_whole {
        let body = String::from_utf8_lossy(&letter.message.body);
        value["headers"] = json!(letter.message.headers);
        value["body"] = json::read(body.as_bytes(), &Bounds::MESSAGE).unwrap_or_else(|_| json!(body));
    }
    value
}

fn in_words(letter: &DeadLetter, now: Timestamp) -> String {
    let job = letter.job.as_deref().unwrap_or("?");
    let age = letter.age_seconds(now).map_or_else(|| "?".to_owned(), age_in_words);
    let attempts = match letter.headers.failures {
        1 => "1 failed attempt".to_owned(),
        failures => format!("{failures} failed attempts"),
    };
    format!("{job}  {}  {age}  {attempts}  {}", letter.queue, letter.reason())
}

/// Formats an age with its largest unit, such as `3h`.
fn age_in_words(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_one_unit() {
        let words = [0, 59, 60, 3_599, 3_600, 86_399, 86_400, 864_000].map(age_in_words);
        assert_eq!(words, ["0s", "59s", "1m", "59m", "1h", "23h", "1d", "10d"]);
    }

    #[test]
    fn a_missing_job_is_an_error_and_an_empty_queue_is_none() {
        let one = Chosen { jobs: ["one".to_owned()].into(), ..Chosen::default() };
        let outcome = |done, refused, stopped| Outcome { done, read: 9, refused, stopped };
        assert_eq!(exit(outcome(0, 0, false), &one), Exit::JobFailed);
        assert_eq!(exit(outcome(1, 0, false), &one), Exit::Success);
        assert_eq!(exit(outcome(0, 0, false), &Chosen::default()), Exit::Success);
        assert_eq!(exit(outcome(5, 1, false), &Chosen::default()), Exit::JobFailed);
        assert_eq!(exit(outcome(5, 0, true), &Chosen::default()), Exit::Interrupted);
    }
}
