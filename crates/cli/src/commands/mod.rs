//! The commands: each takes its arguments, calls the service, and prints what it returns.

pub(crate) mod canary;
pub(crate) mod dead_letters;
pub(crate) mod jobs;
pub(crate) mod roles;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod topology;
