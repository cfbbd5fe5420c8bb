//! EchoGen as a service: one configuration, adapters joined to stages, and one function that starts, drains and stops
//! them.
//!
//! | part | what it does |
//! |---|---|
//! | [`run()`] | runs roles on servers: the entry of the program, of chaos and of the benchmarks |
//! | [`config`] | every setting there is |
//! | [`NetworkSource`] | where the networks come from: a bundle, or constants in tests |
//! | [`embedded`] | everything in one process, without servers |
//! | [`operations`] | what clients and operators do: submit, status, cancel, canary, dead letters, topology |
//! | [`block_on`] | signals |
//!
//! Apart from the programs, this is the only crate that uses adapters *and* stages. Only [`console`] prints, and only
//! programs call it.

mod backends;
mod bundles;
pub mod config;
pub mod console;
mod credentials;
mod crossing;
pub mod embedded;
mod failure;
mod gateway;
mod job_lines;
mod jobs_file;
mod monitor;
mod networks;
pub mod operations;
pub mod picture_file;
mod readiness;
mod roles;
mod run;
mod signals;

pub use backends::Backends;
pub use bundles::bundle_folders;
pub use crossing::{Crossing, id_words};
pub use failure::{Exit, Failure};
pub use job_lines::JobLines;
pub use jobs_file::{ContentIds, JobFields, JobsFile};
pub use networks::{BundleNetworks, LoadedNetworks, NetworkSource, NoNetworks, plan_request};
pub use run::{run, work};
pub use signals::{block_on, interrupted, stop_token, with_deep_stacks};

/// The allocator of every program that runs roles. A job is thousands of small allocations, most of them in the clients of
/// S3 and the broker and many of them freed on another thread: with the C library's they cost the roles a tenth more processor time.
/// Version 2 of mimalloc: version 3 takes as much as the C library's here, and a third more memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
