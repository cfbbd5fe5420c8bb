//! The published JSON Schema of a job.

use std::sync::LazyLock;

use serde_json::Value;

use crate::Job;

static JOB: LazyLock<Value> = LazyLock::new(|| schemars::schema_for!(Job).to_value());

impl Job {
    /// Returns the JSON Schema of a job (draft 2020-12). [`Job::parse`] refuses everything that the schema refuses, and
    /// also checks what a schema cannot express, such as that a box is not empty.
    pub fn schema() -> &'static Value {
        &JOB
    }
}
