//! The data that the parts of EchoGen exchange: jobs, tasks, events, hashes, limits and their JSON Schema.
//!
//! Pure data: this crate does no input or output and reads no clock. [`Job::parse`] refuses an invalid job with a
//! message that says what to change.
//!
//! | what | type |
//! |---|---|
//! | a client's request | [`Job`], bounded by [`limits`] |
//! | the stages, their queues and the roles that run them | [`StageName`], the one list; [`QueueName`], [`RoleName`] |
//! | the partitions of tenants that share a queue | [`Partition`], [`Partitions`] |
//! | one message for one stage | a [`StageTask`], with [`TaskHeaders`] beside it |
//! | a picture's pixels that show the subject | [`CutOut`] |
//! | the end of a job | [`JobResult`], the content of its `result.json` |
//! | what happens to a job | [`JobEvent`], a CloudEvent |
//! | JSON from outside, read within bounds | [`json::read`] |
//! | text from outside in a message | [`text::quoted`], [`text::one_line`] |
#![warn(missing_docs)]

mod aspect_ratio;
mod cut_out;
mod error;
mod event;
mod hash;
mod headers;
mod image_source;
mod job;
pub mod json;
mod key;
pub mod layout;
pub mod limits;
mod names;
mod output;
mod parse;
mod partition;
mod per_scale;
mod pixel_budget;
mod result;
mod schema;
mod seeds;
mod stage;
mod subject;
mod task;
pub mod text;
mod trace;
mod validate;

pub use aspect_ratio::AspectRatio;
pub use cut_out::{CutOut, MaskError, MaskRuns, SubjectArea};
pub use error::JobError;
pub use event::{EventKind, JobEvent, Preview, ScaleProgress};
pub use hash::{ContentHash, ParseHashError};
pub use headers::{ReplyTo, TaskHeaders};
pub use image_source::{ImageLocation, ImageSource};
pub use job::{Job, JobId, JobOutline, Lane, is_zero};
pub use key::{KeyError, check_object_key};
pub use layout::{Segmentation, SubjectKeys};
pub use names::ParseNameError;
pub use output::{Guidance, OutputFormat, OutputOptions};
pub use partition::{Partition, Partitions};
pub use per_scale::PerScale;
pub use pixel_budget::PixelBudget;
pub use result::{
    Failure, FailureKind, FoundBy, JobResult, JobStatus, Parameters, ResultImage, Safety, SafetyVerdict, SubjectFound,
    Usage, WithheldImage,
};
pub use seeds::Seeds;
pub use stage::{QueueName, RoleName, StageName};
pub use subject::{BoundingBox, IfNotFound, MaskMode, Point, Subject};
pub use task::{EncodeTask, NextTask, Notice, NotifyTask, Progress, SampleTask, SegmentTask, StageTask};
pub use trace::{ParseTraceError, TraceContext};
