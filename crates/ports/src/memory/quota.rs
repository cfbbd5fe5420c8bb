//! The in-memory quota: maps whose entries end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::lock;
use crate::{Charge, Counted, Fault, Held, Quota, Rate};

/// Expired entries are removed once in so many calls, so that the maps hold about as many as are in use.
const CALLS_BETWEEN_REMOVALS: u64 = 1_000;

/// Limits of one process.
#[derive(Debug)]
pub struct MemoryQuota {
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    calls: u64,
    /// The moment at which each key's burst is whole again, in microseconds since the beginning.
    rates: HashMap<String, u64>,
    counters: HashMap<String, Counter>,
    sets: HashMap<String, BTreeMap<String, Expiry>>,
}

/// `None` never comes.
type Expiry = Option<Instant>;

#[derive(Debug)]
struct Counter {
    used: u64,
    expires: Expiry,
}

impl MemoryQuota {
    /// Nothing is used.
    pub fn new() -> Self {
        Self { begun: Instant::now(), state: Mutex::default() }
    }

    /// Forgets everything, as a server does that is flushed or restarted.
    pub fn forget_everything(&self) {
        *lock(&self.state) = State::default();
    }

    fn micros(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Runs a change on entries that may have expired, but not long ago.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (now, micros) = (Instant::now(), self.micros());
        let mut state = lock(&self.state);
        state.calls += 1;
        if state.calls.is_multiple_of(CALLS_BETWEEN_REMOVALS) {
            state.remove_expired(now, micros);
        }
        change(&mut state)
    }
}

impl Default for MemoryQuota {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn remove_expired(&mut self, now: Instant, micros: u64) {
        self.rates.retain(|_, whole| *whole > micros);
        self.counters.retain(|_, counter| !is_over(counter.expires, now));
        self.sets.retain(|_, set| {
            set.retain(|_, expires| !is_over(*expires, now));
            !set.is_empty()
        });
    }

    /// The ids of a set that have not expired.
    fn set(&mut self, key: &str) -> &mut BTreeMap<String, Expiry> {
        let set = self.sets.entry(key.to_owned()).or_default();
        let now = Instant::now();
        set.retain(|_, expires| !is_over(*expires, now));
        set
    }
}

fn is_over(expires: Expiry, now: Instant) -> bool {
    expires.is_some_and(|expires| expires <= now)
}

fn size(set: &BTreeMap<String, Expiry>) -> u64 {
    set.len() as u64
}

#[async_trait]
impl Quota for MemoryQuota {
    async fn charge(&self, key: &str, rate: Rate, cost: u32) -> Result<Charge, Fault> {
        let (interval, now) = (rate.interval_micros()?, self.micros());
        let burst = interval * u64::from(rate.burst);
        Ok(self.change(|state| {
            // A rate that was lowered must not lock a key out for longer than its burst.
            let whole = state.rates.get(key).copied().unwrap_or(0).clamp(now, now + burst);
            let next = whole + interval * u64::from(rate.bounded(cost));
            let allowed = next <= now + burst;
            if allowed && cost > 0 {
                state.rates.insert(key.to_owned(), next);
            }
            let whole = if allowed { next } else { whole };
            Charge {
                allowed,
                remaining: u32::try_from((now + burst - whole) / interval).unwrap_or(rate.burst),
                retry_after: Duration::from_micros(next.saturating_sub(now + burst)),
                reset_after: Duration::from_micros(whole - now),
            }
        }))
    }

    async fn count(&self, key: &str, add: u64, limit: u64, ttl: Duration) -> Result<Counted, Fault> {
        let now = Instant::now();
        Ok(self.change(|state| {
            let counter = state.counters.get_mut(key).filter(|counter| !is_over(counter.expires, now));
            let used = counter.as_ref().map_or(0, |counter| counter.used);
            let Some(sum) = used.checked_add(add).filter(|sum| *sum <= limit) else {
                return Counted { allowed: false, used };
            };
            match counter {
                Some(counter) => counter.used = sum,
                None if add == 0 => {}
                None => {
                    let counter = Counter { used: sum, expires: now.checked_add(ttl) };
                    state.counters.insert(key.to_owned(), counter);
                }
            }
            Counted { allowed: true, used: sum }
        }))
    }

    async fn hold(&self, key: &str, id: &str, limit: u64, ttl: Duration) -> Result<Held, Fault> {
        Ok(self.change(|state| {
            let set = state.set(key);
            let allowed = set.contains_key(id) || size(set) < limit;
            if allowed {
                set.insert(id.to_owned(), Instant::now().checked_add(ttl));
            }
            Held { allowed, held: size(set) }
        }))
    }

    async fn release(&self, key: &str, id: &str) -> Result<(), Fault> {
        self.change(|state| state.set(key).remove(id));
        Ok(())
    }

    async fn held(&self, key: &str) -> Result<u64, Fault> {
        Ok(self.change(|state| size(state.set(key))))
    }

    async fn members(&self, key: &str) -> Result<Vec<String>, Fault> {
        Ok(self.change(|state| state.set(key).keys().cloned().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_takes_no_memory() {
        let (quota, rate, second) = (MemoryQuota::new(), Rate { burst: 1, per_second: 1.0 }, Duration::from_secs(1));
        for number in 0..5_000 {
            let key = &format!("key-{number}");
            quota.charge(key, rate, 1).await.unwrap();
            quota.count(key, 1, 1, second).await.unwrap();
            quota.hold(key, "id", 1, second).await.unwrap();
            quota.held(&format!("none-{number}")).await.unwrap();
            tokio::time::advance(second / 100).await;
        }
        let state = lock(&quota.state);
        for entries in [state.rates.len(), state.counters.len(), state.sets.len()] {
            assert!(entries < 1_000, "{entries}");
        }
    }
}
