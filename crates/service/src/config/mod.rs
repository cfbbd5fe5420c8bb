//! The one configuration of every role and command.
//!
//! [`ServiceConfig`] is the only list of settings. Names, help texts, types and defaults of flags, of environment
//! variables, of the file's keys and of the pages follow from it. Deliberately absent: arguments of a single command, such
//! as the folder that `generate` writes to.

mod sections;
#[cfg(test)]
mod tests;
mod text;

pub use sections::{
    CacheConfig, CallbacksConfig, FetchConfig, JobDefaults, Listen, ModelConfig, RoleConcurrency, ServiceConfig,
    StoreConfig, TelemetryConfig, WorkerSettings,
};
