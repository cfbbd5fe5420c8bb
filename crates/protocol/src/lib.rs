//! What travels between the parts of EchoGen: jobs, tasks, events, hashes, limits and their JSON Schema.
//!
//! Pure data. This crate does no input or output and reads no clock: a value is valid or it is not, and
//! [`Job::parse`] says which, with a message that tells the reader what to change.

mod hash;
mod job;
mod task;

pub use hash::{ContentHash, ParseHashError};
pub use job::{
    BoundingBox, Guidance, ImageSource, Job, JobId, Lane, MaskMode, OutputFormat, OutputOptions, PerScale, PixelBudget,
    Seeds, Subject,
};
pub use task::{EncodeTask, SampleTask, SegmentTask, Task};
