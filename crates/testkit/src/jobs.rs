//! Jobs for tests.

use echogen_protocol::{Job, JobId};

/// A valid job with every setting at its default.
pub fn job(id: &str) -> Job {
    Job { id: JobId(id.to_owned()), ..Job::new("dog.png".into(), "a dog on a beach") }
}
