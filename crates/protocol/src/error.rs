//! Why a job was refused: a value that names the field and says what to change.

use std::fmt;

use crate::text::one_line;

/// An invalid field of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError {
    /// The field's path, such as `subject.box.left` or `seeds[3]`; empty for the job as a whole.
    pub field: String,
    /// What is wrong and what to change; one line.
    pub message: String,
}

impl JobError {
    /// An error of `field`. Both texts are put on one line of bounded length, as they may quote a client's.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: short(&field.into()), message: one_line(&message.into()) }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

impl std::error::Error for JobError {}

/// The path of a field, whose names may be a client's own.
fn short(field: &str) -> String {
    const SHOWN: usize = 200;
    let line = one_line(field);
    if line.chars().nth(SHOWN).is_none() {
        return line;
    }
    let head: String = line.chars().take(SHOWN).collect();
    format!("{head}...")
}
