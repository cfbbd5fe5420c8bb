//! The contracts of the ports, as checks that run against the in-memory implementations and the real servers.
//!
//! Each suite takes a factory, which gives a fresh and empty port for every check (a real server's factory takes a
//! fresh prefix). The checks wait on conditions under a time limit; with tokio's clock paused they take no time.

mod broker;
mod browse;
mod cache;
mod callback_sender;
mod content_gate;
mod object_store;
mod quota;

use std::time::Duration;

pub use broker::broker_contract;
pub use browse::browse_contract;
pub use cache::{cache_contract, fencing_contract};
pub use callback_sender::{CallbackServers, callback_sender_contract};
pub use content_gate::{FORBIDDEN, Gates, REASON, content_gate_contract};
pub use object_store::{
    object_store_basic_contract, object_store_contract, object_store_folders_contract, object_store_races_contract,
};
pub use quota::quota_contract;

/// How long something that must happen may take.
const SOON: Duration = Duration::from_secs(20);

/// How long something that must not happen is waited for.
const A_WHILE: Duration = Duration::from_millis(300);

/// Waits for what must happen.
async fn soon<T>(what: &str, happening: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, happening).await {
        Ok(value) => value,
        Err(_) => panic!("this did not happen within {SOON:?}: {what}"),
    }
}

/// Waits whether what must not happen happens all the same.
async fn not_now<T>(what: &str, happening: impl Future<Output = T>) {
    assert!(tokio::time::timeout(A_WHILE, happening).await.is_err(), "this must not happen: {what}");
}
