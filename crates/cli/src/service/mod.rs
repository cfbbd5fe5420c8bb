//! Options of the roles and of the commands that speak to them.

pub(crate) mod arguments;
pub(crate) mod settings;
pub(crate) mod watch_arguments;
