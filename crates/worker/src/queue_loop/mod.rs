//! The queue loop: from a queue to the ack, the same for all stages.
//!
//! [`Worker`] consumes the queues of its stage ([`consumers`]), lanes by weight ([`lanes`]) and partitions of tenants in turn
//! ([`deficit_round_robin`]), holds hardly more tasks than it can begin ([`credit`]), and keeps those at work
//! ([`tasks_at_work`]) within one limit. A
//! [`handler`] takes each delivery to its end: it reads the task, runs the stage, and decides on a [`disposition`], which
//! [`completion`] carries out before the ack. [`crash_counter`] isolates tasks that kill their worker; [`trace`] makes each task
//! one span. Nothing here knows what a stage does.

mod completion;
mod config;
mod consumers;
mod crash_counter;
mod credit;
mod deficit_round_robin;
mod disposition;
mod handler;
mod lanes;
mod tasks_at_work;
pub(crate) mod trace;
pub(crate) mod waiting_tasks;
mod waits;
mod worker;

pub use config::WorkerConfig;
pub use lanes::LaneWeights;
pub use worker::Worker;
