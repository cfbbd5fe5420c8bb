//! Which processes live, for operators. Each shows itself in a set whose entries end by themselves; what it is, is in the cache.
//! Nothing else depends on it.

use std::time::Duration;

use bytes::Bytes;
use echogen_ports::{Cache, Fault, Quota};
use echogen_protocol::{
    RoleName,
    json::{self, Bounds},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// The pause between two beats.
const PAUSE: Duration = Duration::from_secs(20);

/// The time after its last beat for which a process is shown.
const TTL: Duration = Duration::from_secs(60);

/// The set of all processes.
const KEY: &str = "workers";

/// Most processes that are shown.
const MOST: u64 = 10_000;

/// A role of a process that lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Its role.
    pub role: String,
    /// The name of its machine, or of its container.
    pub host: String,
    /// Its number there.
    pub pid: u32,
    /// The version that it runs; `None` while the cache does not know.
    pub version: Option<String>,
    /// When it started; `None` while the cache does not know.
    pub since: Option<Timestamp>,
}

impl Heartbeat {
    /// That of a role of this process, which starts now.
    pub fn of_process(role: RoleName, version: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // The name is one part of a key.
        let host: String = host.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
        Self {
            role: role.to_string(),
            host: if host.is_empty() { "unknown".to_owned() } else { host },
            pid: std::process::id(),
            version: Some(version.to_owned()),
            since: Some(Timestamp::now()),
        }
    }

    /// Shows the process until `end`, and then no longer. Servers that are away are tried again at the next beat.
    pub async fn beat(self, quota: &dyn Quota, cache: &dyn Cache, end: &CancellationToken) {
        let id = self.id();
        let json = Bytes::from(serde_json::to_vec(&self).unwrap_or_default());
        loop {
            let beat = async {
                cache.put(&format!("{KEY}/{id}"), json.clone(), TTL).await?;
                quota.hold(KEY, &id, MOST, TTL).await
            };
            let shown = end.run_until_cancelled(beat).await;
            if let Some(Err(error)) = shown {
                debug!(%error, "this process is not shown as living");
            }
            if end.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_none() {
                break;
            }
        }
        if let Err(error) = quota.release(KEY, &id).await {
            debug!(%error, "this process is shown as living for a while");
        }
    }

    /// Returns all processes that live, by role, machine and number.
    pub async fn all(quota: &dyn Quota, cache: &dyn Cache) -> Result<Vec<Self>, Fault> {
        let mut all = Vec::new();
        for id in quota.members(KEY).await? {
            let found = cache.get(&format!("{KEY}/{id}")).await?;
            let known = found.and_then(|json| json::read(&json, &Bounds::MESSAGE).ok());
            all.extend(known.or_else(|| Self::parse(&id)));
        }
        Ok(all)
    }

    fn id(&self) -> String {
        format!("{}/{}/{}", self.role, self.host, self.pid)
    }

    fn parse(id: &str) -> Option<Self> {
        let mut parts = id.split('/').map(str::to_owned);
        let (role, host, pid) = (parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
        Some(Self { role, host, pid, version: None, since: None })
    }
}

#[cfg(test)]
mod tests {
    use echogen_ports::{MemoryCache, MemoryQuota};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_is_shown_while_it_lives() {
        let (quota, cache, end) = (MemoryQuota::new(), MemoryCache::new(10_000), CancellationToken::new());
        let sampler = Heartbeat::of_process(RoleName::Sampler, "1.2.3");
        let watching = async {
            for _ in 0..5 {
                tokio::time::sleep(TTL).await;
                assert_eq!(Heartbeat::all(&quota, &cache).await.unwrap(), std::slice::from_ref(&sampler));
            }
            cache.forget_everything();
            let bare = Heartbeat { version: None, since: None, ..sampler.clone() };
            assert_eq!(Heartbeat::all(&quota, &cache).await.unwrap(), [bare]);
            end.cancel();
        };
        tokio::join!(sampler.clone().beat(&quota, &cache, &end), watching);
        assert!(Heartbeat::all(&quota, &cache).await.unwrap().is_empty(), "it ended");
        // One that was killed disappears by itself.
        let dying = tokio::time::timeout(TTL / 2, sampler.beat(&quota, &cache, &CancellationToken::new())).await;
        assert!(dying.is_err() && Heartbeat::all(&quota, &cache).await.unwrap().len() == 1);
        tokio::time::sleep(TTL).await;
        assert!(Heartbeat::all(&quota, &cache).await.unwrap().is_empty(), "it was killed");
    }
}
