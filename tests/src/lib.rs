//! Code shared by the whole-system programs: private servers, roles as processes that can be killed, constant
//! networks, and a ledger of how jobs ended.
//!
//! `bench-pipeline`, `bench-overload` and `bench-gateway` measure the system with it, `chaos` injects faults. All start their own executable again for
//! each role, so that a role is a process of its own and runs the same code as the `echogen` program.

pub mod baseline;
pub mod callback_server;
pub mod constant;
pub mod device;
pub mod gateways;
pub mod http_client;
pub mod ledger;
pub mod metrics;
pub mod process;
pub mod producer;
pub mod role;
pub mod system;
pub mod timed;
pub mod troubled_client;
