//! EchoGen as a service: roles on real servers, and the commands that speak to them.
//!
//! [`Backends`] and [`Role`] are public for programs that measure the system or try to break it, with networks of
//! their own; everything else is the command line's.

pub(crate) mod arguments;
mod backends;
pub(crate) mod canary;
pub(crate) mod dead_letters;
pub(crate) mod roles;
mod stages;
pub(crate) mod status;
pub(crate) mod submit;
pub(crate) mod topology;
mod watch;
pub(crate) mod watch_arguments;

pub use backends::Backends;
pub(crate) use backends::refused;
pub use stages::Role;
