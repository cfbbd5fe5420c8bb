//! The contract of [`Cache`].

use std::{sync::Arc, time::Duration};

use super::soon;
use echogen_ports::{Cache, FencingToken};

const HOUR: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(1_500);

/// Checks a cache.
pub async fn cache_contract(fresh: impl AsyncFn() -> Arc<dyn Cache>) {
    what_was_put_is_there(&*fresh().await).await;
    a_value_is_gone_after_its_time(&*fresh().await).await;
    a_lease_is_taken_once_and_given_back_by_its_holder(&*fresh().await).await;
    a_lease_runs_out(&*fresh().await).await;
    a_renewed_lease_outlives_its_first_time(&*fresh().await).await;
    values_and_leases_do_not_meet(&*fresh().await).await;
    of_many_takers_one_wins(fresh().await).await;
}

async fn what_was_put_is_there(cache: &dyn Cache) {
    assert_eq!(cache.get("a").await.expect("get works"), None);
    assert!(!cache.contains("a").await.expect("contains works"), "nothing is there");
    for value in [&b"1"[..], b"", b"\0\xff"] {
        cache.put("a", value.into(), HOUR).await.expect("put works");
        assert_eq!(cache.get("a").await.expect("get works").as_deref(), Some(value));
        assert!(cache.contains("a").await.expect("contains works"), "the value is there");
    }
    assert_eq!(cache.get("b").await.expect("get works"), None);
    assert!(!cache.contains("b").await.expect("contains works"), "only the first is there");
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
    assert!(!cache.contains("a").await.expect("contains works"), "and nobody says that it is");
    assert!(cache.get("b").await.expect("get works").is_some(), "the other one stays");
    cache.put("a", "1".into(), SHORT).await.expect("put works");
    cache.put("a", "2".into(), HOUR).await.expect("put works");
    tokio::time::sleep(SHORT * 2).await;
    assert!(cache.get("a").await.expect("get works").is_some(), "a new value has its own time");
}

async fn take(cache: &dyn Cache, ttl: Duration) -> Option<FencingToken> {
    cache.acquire_lease("lease", ttl).await.expect("acquire works")
}

async fn renew(cache: &dyn Cache, token: FencingToken, ttl: Duration) -> bool {
    cache.renew_lease("lease", token, ttl).await.expect("renew works")
}

async fn release(cache: &dyn Cache, token: FencingToken) -> bool {
    cache.release_lease("lease", token).await.expect("release works")
}

/// Waits until the lease can be taken.
async fn take_when_free(cache: &dyn Cache) -> FencingToken {
    let taken = async {
        loop {
            if let Some(token) = take(cache, HOUR).await {
                return token;
            }
            tokio::time::sleep(SHORT / 4).await;
        }
    };
    soon("the lease runs out", taken).await
}

async fn a_lease_is_taken_once_and_given_back_by_its_holder(cache: &dyn Cache) {
    let mine = take(cache, HOUR).await.expect("the lease is free");
    assert_eq!(take(cache, HOUR).await, None, "the lease is taken");
    let stranger = FencingToken(mine.0 - 1);
    assert!(!release(cache, stranger).await, "not the stranger's to give back");
    assert!(!renew(cache, stranger, HOUR).await, "not the stranger's to renew");
    assert!(renew(cache, mine, HOUR).await, "still mine");
    assert!(cache.acquire_lease("other", HOUR).await.expect("acquire works").is_some(), "another key is free");
    assert!(release(cache, mine).await);
    assert!(!release(cache, mine).await, "already given back");
    assert!(!renew(cache, mine, HOUR).await, "a lease given back is not renewed");
    assert!(take(cache, HOUR).await.expect("the lease is free again") > mine);
}

async fn a_lease_runs_out(cache: &dyn Cache) {
    let mine = take(cache, SHORT).await.expect("the lease is free");
    let next = take_when_free(cache).await;
    assert!(next > mine, "{next} after {mine}");
    assert!(!renew(cache, mine, HOUR).await, "it is the next one's");
    assert!(!release(cache, mine).await, "nothing to give back");
    assert_eq!(take(cache, HOUR).await, None, "the next one holds it");
    assert!(release(cache, next).await);
}

async fn a_renewed_lease_outlives_its_first_time(cache: &dyn Cache) {
    let mine = take(cache, SHORT).await.expect("the lease is free");
    assert!(renew(cache, mine, HOUR).await);
    tokio::time::sleep(SHORT * 2).await;
    assert_eq!(take(cache, HOUR).await, None, "it was renewed");
    assert!(renew(cache, mine, SHORT).await, "and may be made shorter");
    take_when_free(cache).await;
}

async fn values_and_leases_do_not_meet(cache: &dyn Cache) {
    let first = take(cache, HOUR).await.expect("the lease is free");
    assert!(!cache.contains("lease").await.expect("contains works"), "a lease is no value");
    assert!(release(cache, first).await);
    cache.put("lease", "a value".into(), HOUR).await.expect("put works");
    let mine = take(cache, HOUR).await.expect("a value is no lease");
    assert_eq!(cache.get("lease").await.expect("get works").as_deref(), Some(&b"a value"[..]));
    assert!(release(cache, mine).await);
    assert!(cache.get("lease").await.expect("get works").is_some(), "the value stays");
}

async fn of_many_takers_one_wins(cache: Arc<dyn Cache>) {
    let mut takers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let cache = Arc::clone(&cache);
        takers.spawn(async move { take(&*cache, HOUR).await });
    }
    assert_eq!(takers.join_all().await.into_iter().flatten().count(), 1);
}

/// Checks that tokens grow with every holder, also when `lose_everything` makes the cache forget all it knows.
pub async fn fencing_contract(cache: &dyn Cache, lose_everything: impl AsyncFn()) {
    let mut last = FencingToken(0);
    for round in 0..6 {
        let token = take(cache, HOUR).await.expect("the lease is free");
        assert!(token > last, "round {round}: {token} after {last}");
        if round % 2 == 0 {
            assert!(release(cache, token).await);
        } else {
            cache.put("a", "1".into(), HOUR).await.expect("put works");
            lose_everything().await;
            assert!(cache.get("a").await.expect("get works").is_none(), "everything is lost");
            assert!(!renew(cache, token, HOUR).await, "and this lease too");
        }
        last = token;
    }
}
