//! Limits that are kept in this process while those that all gateways share cannot be reached.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use echogen_ports::{Charge, Counted, Fault, Held, MemoryQuota, Quota, Rate};
use echogen_telemetry::metrics;
use tracing::warn;

/// Shared limits with a stand-in. What was counted in one is not known to the other: limits protect others, and are no reason
/// to refuse work that could be done.
#[derive(Debug)]
pub(crate) struct QuotaWithStandIn {
    shared: Arc<dyn Quota>,
    stand_in: MemoryQuota,
}

impl QuotaWithStandIn {
    pub(crate) fn new(shared: Arc<dyn Quota>) -> Self {
        Self { shared, stand_in: MemoryQuota::new() }
    }
}

/// Notes that the shared limits cannot be reached, unless the request itself was wrong.
fn is_away(error: &Fault) -> bool {
    if error.is_permanent() {
        return false;
    }
    warn!(%error, "the limits of all gateways cannot be reached; each keeps its own");
    metrics().limits_unread();
    true
}

#[async_trait]
impl Quota for QuotaWithStandIn {
    async fn charge(&self, key: &str, rate: Rate, cost: u32) -> Result<Charge, Fault> {
        match self.shared.charge(key, rate, cost).await {
            Err(error) if is_away(&error) => self.stand_in.charge(key, rate, cost).await,
            answer => answer,
        }
    }

    async fn count(&self, key: &str, add: u64, limit: u64, ttl: Duration) -> Result<Counted, Fault> {
        match self.shared.count(key, add, limit, ttl).await {
            Err(error) if is_away(&error) => self.stand_in.count(key, add, limit, ttl).await,
            answer => answer,
        }
    }

    async fn hold(&self, key: &str, id: &str, limit: u64, ttl: Duration) -> Result<Held, Fault> {
        match self.shared.hold(key, id, limit, ttl).await {
            Err(error) if is_away(&error) => self.stand_in.hold(key, id, limit, ttl).await,
            answer => answer,
        }
    }

    async fn release(&self, key: &str, id: &str) -> Result<(), Fault> {
        // It may have been counted in either.
        self.stand_in.release(key, id).await?;
        match self.shared.release(key, id).await {
            Err(error) if is_away(&error) => Ok(()),
            answer => answer,
        }
    }

    async fn held(&self, key: &str) -> Result<u64, Fault> {
        match self.shared.held(key).await {
            Err(error) if is_away(&error) => self.stand_in.held(key).await,
            answer => answer,
        }
    }

    async fn members(&self, key: &str) -> Result<Vec<String>, Fault> {
        match self.shared.members(key).await {
            Err(error) if is_away(&error) => self.stand_in.members(key).await,
            answer => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limits that cannot be reached.
    #[derive(Debug)]
    struct Away;

    fn away<T>() -> Result<T, Fault> {
        Err(Fault::unavailable("nobody answers"))
    }

    #[async_trait]
    impl Quota for Away {
        async fn charge(&self, _: &str, _: Rate, _: u32) -> Result<Charge, Fault> {
            away()
        }

        async fn count(&self, _: &str, _: u64, _: u64, _: Duration) -> Result<Counted, Fault> {
            away()
        }

        async fn hold(&self, _: &str, _: &str, _: u64, _: Duration) -> Result<Held, Fault> {
            away()
        }

        async fn release(&self, _: &str, _: &str) -> Result<(), Fault> {
            away()
        }

        async fn held(&self, _: &str) -> Result<u64, Fault> {
            away()
        }

        async fn members(&self, _: &str) -> Result<Vec<String>, Fault> {
            away()
        }
    }

    #[tokio::test]
    async fn limits_are_kept_here_while_nobody_else_can() {
        let quota = QuotaWithStandIn::new(Arc::new(Away));
        let (rate, day) = (Rate { burst: 2, per_second: 0.001 }, Duration::from_secs(86_400));
        let mut allowed = Vec::new();
        for _ in 0..3 {
            allowed.push(quota.charge("a", rate, 1).await.unwrap().allowed);
        }
        assert_eq!(allowed, [true, true, false]);
        assert!(
            quota.count("a", 5, 5, day).await.unwrap().allowed && !quota.count("a", 1, 5, day).await.unwrap().allowed
        );
        assert!(quota.hold("a", "job", 1, day).await.unwrap().allowed);
        assert!(!quota.hold("a", "other", 1, day).await.unwrap().allowed);
        quota.release("a", "job").await.unwrap();
        assert_eq!(quota.held("a").await.unwrap(), 0);
    }
}
