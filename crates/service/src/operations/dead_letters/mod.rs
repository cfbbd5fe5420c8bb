//! Lists, redrives or deletes dead letters: what [`echogen_worker::dead_letters`] does, with the errors of commands.

pub use echogen_worker::dead_letters::{
    Action, Chosen, DeadLetter, Interrupted, Outcome, Progress, ReasonCount, ReasonCounts, act, queues_named,
};

use crate::Failure;

/// Returns the error of a command whose run ended early, with the number of letters that were handled before.
pub fn failure(interrupted: &Interrupted, action: Action) -> Failure {
    let Failure { exit, message } = Failure::refused("dead letters cannot be reached", &interrupted.fault);
    let before = match (action, interrupted.outcome.done) {
        (Action::List, _) | (_, 0) => String::new(),
        (action, done) => format!("; {done} were {} before, run the same command again for the rest", action.done()),
    };
    Failure { exit, message: format!("{message}{before}") }
}

#[cfg(test)]
mod tests;
