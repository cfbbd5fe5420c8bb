//! What happens to jobs, as it happens: server-sent events.

mod hub;
mod stream;

pub use self::stream::{JobUpdate, Snapshot};
pub(crate) use self::{
    hub::{Hub, Topic, Update},
    stream::{of_job, of_tenant},
};
