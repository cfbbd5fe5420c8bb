//! Limits in Redis: each call is one script on the connection of the leases, so it is atomic and waits for no large value.

use std::time::Duration;

use async_trait::async_trait;
use echogen_ports::{Charge, Counted, Fault, Held, Quota, Rate};

use super::{RedisCache, milliseconds, scripts};

/// The largest number of a counter: a Lua number is exact up to it.
const LARGEST: u64 = 1 << 53;

impl RedisCache {
    fn quota_key(&self, kind: &str, key: &str) -> String {
        format!("{}{kind}:{key}", self.settings.prefix)
    }
}

#[async_trait]
impl Quota for RedisCache {
    async fn charge(&self, key: &str, rate: Rate, cost: u32) -> Result<Charge, Fault> {
        let (key, interval, cost) = (self.quota_key("rate", key), rate.interval_micros()?, rate.bounded(cost));
        let (allowed, remaining, retry_after, reset_after): (bool, u32, u64, u64) =
            self.script(scripts::CHARGE.key(key).arg(interval).arg(rate.burst).arg(cost)).await?;
        let (retry_after, reset_after) = (Duration::from_micros(retry_after), Duration::from_micros(reset_after));
        Ok(Charge { allowed, remaining, retry_after, reset_after })
    }

    async fn count(&self, key: &str, add: u64, limit: u64, ttl: Duration) -> Result<Counted, Fault> {
        // What is over the largest number is over every limit.
        let (key, limit, add) = (self.quota_key("count", key), limit.min(LARGEST), add.min(LARGEST + 1));
        let (allowed, used) = self.script(scripts::COUNT.key(key).arg(add).arg(limit).arg(milliseconds(ttl))).await?;
        Ok(Counted { allowed, used })
    }

    async fn hold(&self, key: &str, id: &str, limit: u64, ttl: Duration) -> Result<Held, Fault> {
        let (key, limit) = (self.quota_key("held", key), limit.min(LARGEST));
        let (allowed, held) = self.script(scripts::HOLD.key(key).arg(id).arg(limit).arg(milliseconds(ttl))).await?;
        Ok(Held { allowed, held })
    }

    async fn release(&self, key: &str, id: &str) -> Result<(), Fault> {
        self.command("ZREM", ::redis::cmd("ZREM").arg(self.quota_key("held", key)).arg(id)).await
    }

    async fn held(&self, key: &str) -> Result<u64, Fault> {
        self.script(&scripts::HELD.key(self.quota_key("held", key))).await
    }

    async fn members(&self, key: &str) -> Result<Vec<String>, Fault> {
        let mut ids: Vec<String> = self.script(&scripts::MEMBERS.key(self.quota_key("held", key))).await?;
        // The server has them in the order of their times.
        ids.sort_unstable();
        Ok(ids)
    }
}
