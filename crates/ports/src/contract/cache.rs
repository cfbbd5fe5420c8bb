//! The contract of [`Cache`].

use std::{sync::Arc, time::Duration};

use super::soon;
use crate::Cache;

const HOUR: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(1_500);

/// Checks a cache.
pub async fn cache_contract(fresh: impl AsyncFn() -> Arc<dyn Cache>) {
    what_was_put_is_there(&*fresh().await).await;
    a_value_is_gone_after_its_time(&*fresh().await).await;
    a_lease_is_taken_once_and_given_back_by_its_holder(&*fresh().await).await;
    a_lease_runs_out(&*fresh().await).await;
    of_many_takers_one_wins(fresh().await).await;
}

async fn what_was_put_is_there(cache: &dyn Cache) {
    assert_eq!(cache.get("a").await.expect("get works"), None);
    for value in [&b"1"[..], b"", b"\0\xff"] {
        cache.put("a", value.into(), HOUR).await.expect("put works");
        assert_eq!(cache.get("a").await.expect("get works").as_deref(), Some(value));
    }
    assert_eq!(cache.get("b").await.expect("get works"), None);
}

/// Waits until the key is free of itself.
async fn wait_until_gone(cache: &dyn Cache, key: &str) {
    let gone = async {
        while cache.get(key).await.expect("get works").is_some() {
            tokio::time::sleep(SHORT / 4).await;
        }
    };
    soon("the value runs out", gone).await;
}

async fn a_value_is_gone_after_its_time(cache: &dyn Cache) {
    cache.put("a", "1".into(), SHORT).await.expect("put works");
    cache.put("b", "2".into(), HOUR).await.expect("put works");
    assert!(cache.get("a").await.expect("get works").is_some(), "it is there before its time is over");
    wait_until_gone(cache, "a").await;
    assert!(cache.get("b").await.expect("get works").is_some(), "the other one stays");
    cache.put("a", "1".into(), SHORT).await.expect("put works");
    cache.put("a", "2".into(), HOUR).await.expect("put works");
    tokio::time::sleep(SHORT * 2).await;
    assert!(cache.get("a").await.expect("get works").is_some(), "a new value has its own time");
}

async fn a_lease_is_taken_once_and_given_back_by_its_holder(cache: &dyn Cache) {
    assert!(cache.put_if_absent("lease", "me".into(), HOUR).await.expect("the lease is free"));
    assert!(!cache.put_if_absent("lease", "you".into(), HOUR).await.expect("the lease is taken"));
    assert!(!cache.delete_if_equal("lease", b"you").await.expect("not yours"));
    assert_eq!(cache.get("lease").await.expect("get works").as_deref(), Some(&b"me"[..]));
    assert!(cache.delete_if_equal("lease", b"me").await.expect("mine"));
    assert!(!cache.delete_if_equal("lease", b"me").await.expect("already given back"));
    assert!(cache.put_if_absent("lease", "you".into(), HOUR).await.expect("the lease is free again"));
}

async fn a_lease_runs_out(cache: &dyn Cache) {
    assert!(cache.put_if_absent("lease", "me".into(), SHORT).await.expect("the lease is free"));
    wait_until_gone(cache, "lease").await;
    assert!(!cache.delete_if_equal("lease", b"me").await.expect("nothing to give back"));
    assert!(cache.put_if_absent("lease", "you".into(), HOUR).await.expect("the lease is free again"));
}

async fn of_many_takers_one_wins(cache: Arc<dyn Cache>) {
    let mut takers = tokio::task::JoinSet::new();
    for taker in 0..16_u8 {
        let cache = Arc::clone(&cache);
        takers.spawn(async move { cache.put_if_absent("race", vec![taker].into(), HOUR).await.expect("no error") });
    }
    assert_eq!(takers.join_all().await.into_iter().filter(|won| *won).count(), 1);
}
