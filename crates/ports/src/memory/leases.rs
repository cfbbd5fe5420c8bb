//! The leases of the in-memory cache.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::FencingToken;

/// The holder of each lease, and when it expires.
#[derive(Default)]
pub(super) struct Leases {
    held: HashMap<String, Lease>,
    last: u64,
}

struct Lease {
    token: FencingToken,
    expires: Option<Instant>,
}

impl Lease {
    fn is_over(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= Instant::now())
    }
}

impl Leases {
    pub(super) fn acquire(&mut self, key: &str, ttl: Duration) -> Option<FencingToken> {
        // Expired ones are removed here, so the map contains only leases in use.
        self.held.retain(|_, lease| !lease.is_over());
        if self.held.contains_key(key) {
            return None;
        }
        let token = self.next_token();
        self.held.insert(key.to_owned(), Lease { token, expires: Instant::now().checked_add(ttl) });
        Some(token)
    }

    pub(super) fn renew(&mut self, key: &str, token: FencingToken, ttl: Duration) -> bool {
        let Some(lease) = self.held.get_mut(key).filter(|lease| lease.token == token && !lease.is_over()) else {
            return false;
        };
        lease.expires = Instant::now().checked_add(ttl);
        true
    }

    pub(super) fn release(&mut self, key: &str, token: FencingToken) -> bool {
        let is_held = self.held.get(key).is_some_and(|lease| lease.token == token && !lease.is_over());
        if is_held {
            self.held.remove(key);
        }
        is_held
    }

    /// No leases; tokens still grow. (A server has the time of day alone for that, but cannot be asked twice within one
    /// microsecond.)
    pub(super) fn forgotten(self) -> Self {
        Self { held: HashMap::new(), last: self.last }
    }

    /// The time of day in microseconds survives a loss of all data; the counter protects against a clock that is set
    /// back.
    fn next_token(&mut self) -> FencingToken {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.last = u64::try_from(now.as_micros()).unwrap_or(u64::MAX).max(self.last + 1);
        FencingToken(self.last)
    }
}
