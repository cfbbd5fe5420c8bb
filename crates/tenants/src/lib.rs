//! Who may use an installation over HTTP, and how much: tenants, their keys, limits and prices, and the console's sessions.
//!
//! | what | type |
//! |---|---|
//! | the tenants of a file | [`Tenants`], read by [`TenantsFile`], which also notices changes |
//! | the tenants as they are now | [`TenantsHandle`] |
//! | one tenant | [`Tenant`] with [`Limits`] and [`Prices`], named by a [`TenantName`] |
//! | a key that is made | [`Key`]; what is kept of it is its SHA-256, in a [`KeyEntry`] |
//! | a session of the console | [`Sessions`] seals and opens its cookie |
//! | what jobs have used | [`UsageSums`] |
//! | changes of the file that keep its comments | [`edit`] |
//!
//! No key and no secret is in a message, in a log or in what Debug shows. Deliberately absent: HTTP, counting, and any list of
//! sessions: a session ends with its time or with its key.
#![warn(missing_docs)]

pub mod edit;
mod file;
mod key;
mod name;
mod read;
mod scope;
mod session;
mod tenant;
mod tenants;
mod usage;

pub use file::{TenantsFile, TenantsHandle};
pub use key::{Key, KeyEntry, KeyId};
pub use name::TenantName;
pub use read::{MAX_FILE_BYTES, TenantsError};
pub use scope::Scope;
pub use session::{OpenedSession, Sessions};
pub use tenant::{Limits, Prices, Tenant};
pub use tenants::{Authenticated, Tenants};
pub use usage::{UsageBy, UsageSums, Used};
