//! The commands: each has its arguments, calls the service with them and the configuration, and prints what it
//! returns.

pub(crate) mod canary;
pub(crate) mod config;
pub(crate) mod dead_letters;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod roles;
pub(crate) mod segment;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod topology;
pub(crate) mod usage;
