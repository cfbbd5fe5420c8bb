//! Keys of a bucket, page by page.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use echogen_ports::{Fault, ObjectKey, check_list_prefix};

use super::{Access, S3ObjectStore, error};

/// The most keys that S3 returns at once.
const LARGEST_PAGE: usize = 1_000;

/// Lists at most `limit` keys below `prefix` after `after`. Names that no key has, such as the markers of folders that some
/// programs write, are skipped.
pub(super) async fn list(
    store: &S3ObjectStore,
    prefix: &str,
    after: Option<&ObjectKey>,
    limit: usize,
) -> Result<Vec<ObjectKey>, Fault> {
    check_list_prefix(prefix)?;
    // Some servers answer a start outside the prefix with nothing, so only one inside is sent.
    let start = after.filter(|after| after.as_str().starts_with(prefix));
    if start.is_none() && after.is_some_and(|after| after.as_str() > prefix) {
        return Ok(Vec::new());
    }
    let (mut found, mut token) = (Vec::new(), None);
    while found.len() < limit {
        let page = page(store, prefix, start, limit - found.len(), token).await?;
        let names = page.contents().iter().filter_map(|object| object.key()?.strip_prefix(&store.config.prefix));
        let keys = names.filter_map(|name| ObjectKey::new(name).ok());
        // A server may ignore the start or the length of the page.
        found.extend(keys.filter(|key| start.is_none_or(|start| key > start)).take(limit - found.len()));
        token = page.next_continuation_token.filter(|_| page.is_truncated == Some(true));
        if token.is_none() {
            break;
        }
    }
    Ok(found)
}

async fn page(
    store: &S3ObjectStore,
    prefix: &str,
    start: Option<&ObjectKey>,
    wanted: usize,
    token: Option<String>,
) -> Result<ListObjectsV2Output, Fault> {
    let config = &store.config;
    let below = format!("{}{prefix}", config.prefix);
    let request = store.clients.client.list_objects_v2().bucket(&config.bucket).prefix(&below);
    let request = request
        .set_start_after(start.filter(|_| token.is_none()).map(|start| store.name(start)))
        .set_continuation_token(token)
        .max_keys(i32::try_from(wanted.min(LARGEST_PAGE)).unwrap_or(i32::MAX));
    let listed = Box::pin(request.send()).await;
    listed.map_err(|error| error::port_error(&config.bucket, Access::List, &below, error))
}
