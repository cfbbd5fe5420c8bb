//! `echogen dead-letters`: lists, redrives or deletes dead letters.

use clap::{Args, Subcommand};
use echogen_protocol::json::{self, Bounds};
use echogen_service::{
    Exit, Failure, block_on,
    config::ServiceConfig,
    console::{print_json, print_line},
    operations::{
        connect,
        dead_letters::{Action, Chosen, DeadLetter, act},
    },
};
use serde_json::json;

pub(crate) const DEAD_LETTERS_EXAMPLES: &str = "\
Examples:
  List parked tasks with the reasons:
    echogen dead-letters list
  Publish all of them again after the cause is corrected:
    echogen dead-letters redrive --all
  Delete one:
    echogen dead-letters drop dog-1";

/// Which dead letters.
#[derive(Args, Debug, Clone)]
pub(crate) struct ChosenOptions {
    /// Tasks of these jobs
    #[arg(value_name = "JOB", required_unless_present = "all")]
    pub(crate) jobs: Vec<String>,

    /// All parked tasks
    #[arg(long, conflicts_with = "jobs")]
    pub(crate) all: bool,
}

/// What to do with them.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DeadLettersCommand {
    /// List parked tasks with their reasons
    List,
    /// Print headers and body
    Show(ChosenOptions),
    /// Publish again to the queue where it failed; attempts start at zero
    Redrive(ChosenOptions),
    /// Delete
    Drop(ChosenOptions),
}

/// How much of a dead letter is printed.
#[derive(Clone, Copy, PartialEq)]
enum Printed {
    Nothing,
    Line,
    Whole,
}

/// Runs `echogen dead-letters`.
pub(crate) fn run(command: &DeadLettersCommand, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    let (action, printed, chosen, done) = match command {
        DeadLettersCommand::List => (Action::List, Printed::Line, Chosen::All, "parked"),
        DeadLettersCommand::Show(options) => (Action::List, Printed::Whole, chosen(options), "parked"),
        DeadLettersCommand::Redrive(options) => (Action::Redrive, Printed::Nothing, chosen(options), "redriven"),
        DeadLettersCommand::Drop(options) => (Action::Delete, Printed::Nothing, chosen(options), "deleted"),
    };
    let count = count(config, action, printed, &chosen, as_json);
    block_on(async {
        let count = count.await?;
        if !as_json {
            print_line(&format!("{count} {done}"));
        }
        // If a named job has no dead letter, that is an error.
        let missing = count == 0 && chosen != Chosen::All;
        Ok(if missing { Exit::JobFailed } else { Exit::Success })
    })
}

async fn count(
    config: &ServiceConfig,
    action: Action,
    printed: Printed,
    chosen: &Chosen,
    as_json: bool,
) -> Result<u64, Failure> {
    let broker = connect(config).await?;
    let count = act(&*broker, action, chosen, |letter| print(letter, printed, as_json)).await;
    broker.close().await;
    count
}

fn chosen(options: &ChosenOptions) -> Chosen {
    if options.all { Chosen::All } else { Chosen::Jobs(options.jobs.clone()) }
}

fn print(letter: &DeadLetter<'_>, printed: Printed, as_json: bool) {
    let DeadLetter { queue, message, headers } = letter;
    let (whole, reason) = (printed == Printed::Whole, letter.reason());
    let job = headers.job.as_deref().unwrap_or("?");
    let body = String::from_utf8_lossy(&message.body);
    if printed == Printed::Nothing {
        return;
    }
    if as_json {
        let mut value = json!({ "job": job, "queue": queue.as_str(), "reason": reason, "failures": headers.failures });
        if whole {
            value["headers"] = json!(message.headers);
            value["body"] = json::read(body.as_bytes(), &Bounds::MESSAGE).unwrap_or_else(|_| json!(body));
        }
        print_json("dead-letter", &value);
        return;
    }
    print_line(&format!("{job}  {queue}  {reason}"));
    if whole {
        message.headers.iter().for_each(|(name, text)| print_line(&format!("  {name}: {text}")));
        print_line(&format!("  {body}"));
    }
}
