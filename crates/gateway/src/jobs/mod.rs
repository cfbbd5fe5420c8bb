//! Jobs as the API knows them: who owns them, what is recorded of them, and how they look.
//!
//! A job's *record* is the truth about who sent it and what it asked for; its `result.json` is the truth about how it ended.
//! Both are objects of the result store. The job status store says how far it is, and may forget it.

mod actions;
mod list;
mod pictures;
mod record;
mod refill;
mod submit;
mod view;

use std::{sync::Arc, time::Duration};

use echogen_protocol::{JobId, limits};
use echogen_tenants::TenantName;
use uuid::Uuid;

pub(crate) use self::{
    actions::{again, cancel, delete},
    list::{ListQuery, list, page_fault, page_limit},
    pictures::{ImageQuery, PreviewQuery, image, preview, subject},
    record::{FOLDER, countdown, cursor_key},
    submit::{idempotency_key, submit},
    view::PlaceInQueue,
    view::show,
};
pub use self::{
    list::JobList,
    record::{JobRecord, Records},
    view::{ImageView, JobView, PreviewView, Status},
};

use crate::problem::Problem;

/// The time for which a record is remembered in the process: how long a job can be seen here that another gateway has deleted.
const REMEMBERED: Duration = Duration::from_secs(60);

/// Whose job it is by its id, `TENANT.ID`; `None` for a job that did not come through a gateway.
pub(crate) fn tenant_of(id: &str) -> Option<&str> {
    id.split_once('.').map(|(tenant, _)| tenant).filter(|tenant| !tenant.is_empty())
}

/// The id of a tenant's job, `TENANT.ID`, from `ID` or itself. Another tenant's id becomes one of this tenant's, so it never
/// leads to the other's job.
pub(crate) fn own_id(tenant: &TenantName, given: &str) -> Result<JobId, Problem> {
    let id = match tenant_of(given) {
        Some(named) if named == tenant.as_str() => given.to_owned(),
        _ => format!("{tenant}.{given}"),
    };
    let is_valid = given.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    if given.is_empty() || !is_valid || id.len() > limits::MAX_ID_CHARS {
        let most = limits::MAX_ID_CHARS - tenant.as_str().len() - 1;
        return Err(Problem::field("/id", format!("must be 1 to {most} letters, digits, `.`, `_` or `-`")));
    }
    Ok(JobId(id))
}

/// An id that no other job has. It contains the time, so that ids sort by it.
pub(crate) fn fresh_id(tenant: &TenantName) -> JobId {
    JobId(format!("{tenant}.{}", Uuid::now_v7()))
}

/// The id that follows from an idempotency key.
pub(crate) fn id_of_key(tenant: &TenantName, key: &str) -> JobId {
    let hash = echogen_protocol::ContentHash::of(key.as_bytes()).to_string();
    JobId(format!("{tenant}.key-{hash:.32}"))
}

/// Remembers records, which never change.
pub(crate) type RecordCache = moka::sync::Cache<String, Arc<JobRecord>>;

/// A cache of records, bounded in bytes.
pub(crate) fn record_cache() -> RecordCache {
    moka::sync::Cache::builder()
        .max_capacity(32 * 1024 * 1024)
        .weigher(|key: &String, record: &Arc<JobRecord>| {
            let bytes = key.len() + record.bytes + 512;
            u32::try_from(bytes).unwrap_or(u32::MAX)
        })
        .time_to_live(REMEMBERED)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_always_the_tenants_own() {
        let acme: TenantName = "acme".parse().unwrap();
        let own = |given: &str| own_id(&acme, given).map(|id| id.0);
        assert_eq!(own("mug").unwrap(), "acme.mug");
        assert_eq!(own("acme.mug").unwrap(), "acme.mug");
        assert_eq!(own("globex.mug").unwrap(), "acme.globex.mug");
        for wrong in ["", "a b", "../x", "a/b", &"x".repeat(limits::MAX_ID_CHARS)] {
            assert!(own(wrong).is_err(), "{wrong}");
        }
        assert_eq!(tenant_of("acme.mug"), Some("acme"));
        assert_eq!((tenant_of("job-1"), tenant_of(".x")), (None, None));
    }

    #[test]
    fn a_key_gives_one_id_and_fresh_ids_sort_by_time() {
        let acme: TenantName = "acme".parse().unwrap();
        assert_eq!(id_of_key(&acme, "a"), id_of_key(&acme, "a"));
        assert_ne!(id_of_key(&acme, "a"), id_of_key(&acme, "b"));
        let ids: Vec<_> = (0..100).map(|_| fresh_id(&acme)).collect();
        assert!(ids.is_sorted() && ids.iter().all(|id| id.0.len() < limits::MAX_ID_CHARS));
    }
}
