//! Code shared by the whole-system programs: private servers, roles as processes that can be killed, constant
//! networks, and a ledger of how jobs ended.
//!
//! `bench-pipeline` measures the system with it, `chaos` injects faults. Both start their own executable again for
//! each role, so that a role is a process of its own and runs the same code as the `echogen` program.

pub mod baseline;
pub mod callback_server;
pub mod constant;
pub mod ledger;
pub mod process;
pub mod producer;
pub mod role;
pub mod system;
