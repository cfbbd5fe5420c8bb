//! The contract of [`Quota`].

use std::{sync::Arc, time::Duration};

use super::soon;
use echogen_ports::{Charge, Counted, Held, Quota, Rate};

const HOUR: Duration = Duration::from_secs(3_600);
const SHORT: Duration = Duration::from_millis(1_500);

/// Comes back so slowly that it does not during a test.
const SLOW: Rate = Rate { burst: 100, per_second: 0.001 };

/// Checks a quota. `fresh` gives one that nobody has used, several times: connections of their own to one server.
pub async fn quota_contract(fresh: impl AsyncFn() -> Vec<Arc<dyn Quota>>) {
    let first = async || fresh().await.into_iter().next().expect("there is at least one");
    a_burst_is_allowed_and_no_more(&*first().await).await;
    permits_come_back_one_by_one(&*first().await).await;
    looking_takes_nothing_and_a_rate_without_sense_is_refused(&*first().await).await;
    a_lowered_rate_locks_nobody_out(&*first().await).await;
    a_counter_stops_at_its_limit(&*first().await).await;
    a_counter_starts_again_after_its_time(&*first().await).await;
    a_set_holds_each_id_once(&*first().await).await;
    an_id_disappears_after_its_time(&*first().await).await;
    the_kinds_do_not_meet(&*first().await).await;
    a_flood_passes_no_limit(&fresh().await).await;
}

async fn charge(quota: &dyn Quota, key: &str, rate: Rate, cost: u32) -> Charge {
    quota.charge(key, rate, cost).await.expect("charge works")
}

async fn count(quota: &dyn Quota, add: u64, limit: u64, ttl: Duration) -> (bool, u64) {
    let Counted { allowed, used } = quota.count("a", add, limit, ttl).await.expect("count works");
    (allowed, used)
}

async fn hold(quota: &dyn Quota, id: &str, limit: u64, ttl: Duration) -> (bool, u64) {
    let Held { allowed, held } = quota.hold("a", id, limit, ttl).await.expect("hold works");
    (allowed, held)
}

async fn release(quota: &dyn Quota, id: &str) {
    quota.release("a", id).await.expect("release works");
}

async fn held(quota: &dyn Quota) -> u64 {
    quota.held("a").await.expect("held works")
}

async fn a_burst_is_allowed_and_no_more(quota: &dyn Quota) {
    let rate = Rate { burst: 3, per_second: 0.001 };
    for left in [2, 1, 0] {
        let charge = charge(quota, "a", rate, 1).await;
        assert_eq!((charge.allowed, charge.remaining, charge.retry_after), (true, left, Duration::ZERO));
    }
    let refused = charge(quota, "a", rate, 1).await;
    assert_eq!((refused.allowed, refused.remaining), (false, 0));
    let soon_enough = |wait: Duration, seconds: u64| {
        assert!(wait <= Duration::from_secs(seconds) && wait > Duration::from_secs(seconds - 60), "{wait:?}");
    };
    soon_enough(refused.retry_after, 1_000);
    soon_enough(refused.reset_after, 3_000);
    assert!(charge(quota, "b", rate, 1).await.allowed, "another key has its own");
    assert!(charge(quota, "c", rate, 3).await.allowed, "all at once");
    let refused = charge(quota, "d", rate, 4).await;
    assert_eq!((refused.allowed, refused.remaining), (false, 3), "over the burst, and nothing is taken");
    let refused = charge(quota, "e", Rate { burst: 1, per_second: 1e-6 }, u32::MAX).await;
    assert!(!refused.allowed && !refused.retry_after.is_zero(), "however much is asked for: {refused:?}");
}

async fn permits_come_back_one_by_one(quota: &dyn Quota) {
    let rate = Rate { burst: 2, per_second: 2.0 };
    assert!(charge(quota, "a", rate, 2).await.allowed);
    let refused = charge(quota, "a", rate, 1).await;
    assert!(!refused.allowed && refused.retry_after <= Duration::from_millis(500), "{refused:?}");
    let again = async {
        loop {
            let charge = charge(quota, "a", rate, 1).await;
            if charge.allowed {
                return charge;
            }
            tokio::time::sleep(charge.retry_after).await;
        }
    };
    let charge = soon("a permit comes back", again).await;
    assert_eq!(charge.remaining, 0, "and only one");
}

async fn looking_takes_nothing_and_a_rate_without_sense_is_refused(quota: &dyn Quota) {
    let nothing = charge(quota, "a", SLOW, 0).await;
    let all = Charge { allowed: true, remaining: 100, retry_after: Duration::ZERO, reset_after: Duration::ZERO };
    assert_eq!(nothing, all);
    charge(quota, "a", SLOW, 40).await;
    for _ in 0..2 {
        assert_eq!(charge(quota, "a", SLOW, 0).await.remaining, 60);
    }
    for rate in [Rate { burst: 0, per_second: 1.0 }, Rate { burst: 1, per_second: 0.0 }] {
        let error = quota.charge("a", rate, 1).await.expect_err("it has no sense");
        assert!(error.is_permanent(), "{error}");
    }
}

async fn a_lowered_rate_locks_nobody_out(quota: &dyn Quota) {
    charge(quota, "a", SLOW, 100).await;
    let rate = Rate { burst: 1, per_second: 1.0 };
    let refused = charge(quota, "a", rate, 1).await;
    assert!(!refused.allowed && refused.reset_after <= Duration::from_secs(1), "{refused:?}");
}

async fn a_counter_stops_at_its_limit(quota: &dyn Quota) {
    assert_eq!(count(quota, 0, 10, HOUR).await, (true, 0));
    assert_eq!(count(quota, 4, 10, HOUR).await, (true, 4));
    assert_eq!(count(quota, 7, 10, HOUR).await, (false, 4), "nothing of it is added");
    assert_eq!(count(quota, u64::MAX, 10, HOUR).await, (false, 4));
    assert_eq!(count(quota, 6, 10, HOUR).await, (true, 10));
    assert_eq!(count(quota, 0, 10, HOUR).await, (true, 10));
    assert_eq!(count(quota, 0, 9, HOUR).await, (false, 10), "the limit was lowered");
    assert_eq!(count(quota, 5, u64::MAX, HOUR).await, (true, 15), "any limit is fine");
    let other = quota.count("b", 1, 1, Duration::MAX).await.expect("any time to live is fine");
    assert_eq!((other.allowed, other.used), (true, 1));
}

async fn a_counter_starts_again_after_its_time(quota: &dyn Quota) {
    assert_eq!(count(quota, 1, 2, SHORT).await, (true, 1));
    assert_eq!(count(quota, 1, 2, HOUR).await, (true, 2), "its time is that of the first addition");
    let again = async {
        while !count(quota, 1, 2, HOUR).await.0 {
            tokio::time::sleep(SHORT / 4).await;
        }
    };
    soon("the counter starts again", again).await;
    assert_eq!(count(quota, 0, 2, HOUR).await, (true, 1));
}

async fn members(quota: &dyn Quota) -> Vec<String> {
    quota.members("a").await.expect("members works")
}

async fn a_set_holds_each_id_once(quota: &dyn Quota) {
    assert_eq!(held(quota).await, 0);
    assert!(members(quota).await.is_empty());
    assert_eq!(hold(quota, "one", 2, HOUR).await, (true, 1));
    assert_eq!(hold(quota, "one", 2, HOUR).await, (true, 1), "it is there already");
    assert_eq!(hold(quota, "two", 2, HOUR).await, (true, 2));
    assert_eq!(hold(quota, "three", 2, HOUR).await, (false, 2));
    assert_eq!(hold(quota, "two", 1, HOUR).await, (true, 2), "what is there stays, whatever the limit");
    assert_eq!(held(quota).await, 2);
    assert_eq!(members(quota).await, ["one", "two"]);
    for _ in 0..2 {
        release(quota, "one").await;
        assert_eq!(held(quota).await, 1);
    }
    assert_eq!(members(quota).await, ["two"]);
    assert_eq!(hold(quota, "three", 2, HOUR).await, (true, 2));
    let other = quota.hold("b", "one", 0, HOUR).await.expect("hold works");
    assert_eq!((other.allowed, other.held), (false, 0), "a limit of nothing");
    quota.hold("c", "one", 1, Duration::MAX).await.expect("any time to live is fine");
    quota.release("nowhere", "one").await.expect("a set that is not there has nothing");
}

async fn an_id_disappears_after_its_time(quota: &dyn Quota) {
    assert_eq!(hold(quota, "short", 3, SHORT).await, (true, 1));
    assert_eq!(hold(quota, "renewed", 3, SHORT).await, (true, 2));
    assert_eq!(hold(quota, "long", 3, HOUR).await, (true, 3));
    assert_eq!(hold(quota, "renewed", 3, HOUR).await, (true, 3));
    let room = async {
        while !hold(quota, "next", 3, SHORT).await.0 {
            tokio::time::sleep(SHORT / 4).await;
        }
    };
    soon("there is room again", room).await;
    assert_eq!(held(quota).await, 3, "only the one whose time was over has gone");
    let gone = async {
        while held(quota).await > 2 {
            tokio::time::sleep(SHORT / 4).await;
        }
    };
    soon("an id that nobody asks for disappears", gone).await;
    assert_eq!(members(quota).await, ["long", "renewed"]);
    assert_eq!(hold(quota, "long", 0, HOUR).await, (true, 2), "a short entry does not end the others");
}

async fn the_kinds_do_not_meet(quota: &dyn Quota) {
    charge(quota, "a", SLOW, 1).await;
    assert_eq!(count(quota, 1, 9, HOUR).await, (true, 1));
    assert_eq!(hold(quota, "one", 9, HOUR).await, (true, 1));
    assert_eq!(charge(quota, "a", SLOW, 0).await.remaining, 99);
}

/// Many tasks on all connections, of which each asks for more than its part.
async fn a_flood_passes_no_limit(quotas: &[Arc<dyn Quota>]) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..32 {
        let quota = Arc::clone(&quotas[task % quotas.len()]);
        tasks.spawn(async move {
            let mut allowed = (0_u32, 0_u64, 0_u64);
            for round in 0..20 {
                allowed.0 += u32::from(charge(&*quota, "a", SLOW, 1).await.allowed);
                allowed.1 += u64::from(count(&*quota, 3, 100, HOUR).await.0);
                allowed.2 += u64::from(hold(&*quota, &format!("{task}-{round}"), 50, HOUR).await.0);
            }
            allowed
        });
    }
    let all = tasks.join_all().await;
    let sum = all.iter().fold((0, 0, 0), |sum, task| (sum.0 + task.0, sum.1 + task.1, sum.2 + task.2));
    assert_eq!(sum, (100, 33, 50));
    let last = &**quotas.last().expect("there is at least one");
    assert_eq!((count(last, 0, 100, HOUR).await.1, held(last).await), (99, 50));
    assert_eq!(charge(last, "a", SLOW, 0).await.remaining, 0);
}
