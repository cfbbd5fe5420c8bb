//! Whether a store does what the stages need of it.

use bytes::Bytes;
use echogen_ports::{Fault, ObjectKey, ObjectStore};

/// What is written, and what a conditional write would replace it by. They differ, so that a store that ignores the
/// condition is found out.
const WRITTEN: &[u8] = b"{\"probe\": \"written\"}";
const REPLACED: &[u8] = b"{\"probe\": \"a conditional write has replaced what was there\"}";

/// Writes an object at this key, reads it, and tries to write it again only if it is absent.
///
/// Every process of a role may use the same key at the same time: all write the same bytes. The object stays:
/// deleting it would need a right that only the removal of a failed result needs.
pub async fn probe_store(store: &dyn ObjectStore, key: &ObjectKey) -> Result<(), Fault> {
    store.put(key, Bytes::from_static(WRITTEN)).await?;
    match store.get(key, REPLACED.len() as u64).await? {
        Some(found) if found == WRITTEN => {}
        Some(_) => {
            return Err(Fault::unavailable(format!("the store returned other bytes of {key} than were written")));
        }
        None => return Err(Fault::unavailable(format!("the store does not have {key}, which it has just taken"))),
    }
    if store.put_if_absent(key, Bytes::from_static(REPLACED)).await? {
        return Err(Fault::refused(format!(
            "the store ignores If-None-Match: a write \"only if absent\" has replaced {key}; set \
             store.conditional_writes = false"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
