//! Why a job was refused: a value that names the field and says what to change.

use std::fmt;

/// An invalid field of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobError {
    /// The field's path, such as `subject.box.left` or `seeds[3]`; empty for the job as a whole.
    pub field: String,
    /// What is wrong and what to change; one line.
    pub message: String,
}

impl JobError {
    /// An error of `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.field, self.message) }
    }
}

impl std::error::Error for JobError {}

/// Quotes text from outside for a message: escaped, on one line, and never longer than a line.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().nth(SHOWN).is_none() {
        return format!("{text:?}");
    }
    let head: String = text.chars().take(SHOWN).collect();
    format!("{head:?}... ({} characters)", text.chars().count())
}
