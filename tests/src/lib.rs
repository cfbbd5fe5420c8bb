//! What the whole-system programs share: private servers, roles as processes that can be killed, networks replaced by
//! constants, and a ledger of how jobs ended.
//!
//! `bench-pipeline` measures the system on these, `chaos` tries to break it. Both start themselves again as roles, so
//! that a role is a process of its own, with the same wiring as the `echogen` program.

pub mod baseline;
pub mod callback_server;
pub mod constant;
pub mod ledger;
pub mod process;
pub mod producer;
pub mod role;
pub mod system;
