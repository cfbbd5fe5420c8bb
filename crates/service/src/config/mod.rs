//! The configuration of every role and command.
//!
//! [`ServiceConfig`] is the only list of settings. The names, help texts, types and defaults of flags, environment
//! variables, file keys and documentation pages are derived from it: [`settings()`] walks its schema. [`Layers`] reads
//! defaults < file < environment < flags and records the origin of each value. Arguments of a single command, such as
//! the folder that `generate` writes to, are not settings.

mod check;
mod environment;
mod file;
mod flags;
mod given;
mod job;
mod kind;
mod layers;
mod nearest;
mod pages;
mod sections;
mod settings;
#[cfg(test)]
mod tests;
mod text;

pub use environment::CONFIG_VARIABLE;
pub use file::DEFAULT_FILE;
pub use flags::{flags, given, one_line};
pub use given::{Form, Origin};
pub use kind::{Bounds, Kind};
pub use layers::{ConfigError, Layers, Loaded, Shown};
pub use nearest::nearest;
pub use pages::{default_file, page, schema};
pub use sections::{
    CacheConfig, FetchConfig, JobDefaults, Listen, ModelConfig, RoleConcurrency, ServiceConfig, StoreConfig,
    TelemetryConfig, WorkerSettings,
};
pub use settings::{Section, Setting, Settings, settings};
