//! Fills the queues again from the records, after their loss.

use echogen_ports::{Fault, ObjectKey};
use echogen_tenants::TenantName;

use crate::Gateway;

/// Records of a page.
const PAGE: usize = 200;

impl Gateway {
    /// Publishes every job again that has a record and no result, and returns how many. A job that is in a queue already runs
    /// once nevertheless: its first result counts. Jobs of tenants that are not configured any more are left alone.
    pub async fn refill(&self) -> Result<u64, Fault> {
        let mut published = 0;
        let tenants = self.tenants.current();
        for (tenant, _) in tenants.iter() {
            published += self.refill_tenant(tenant).await?;
        }
        Ok(published)
    }

    async fn refill_tenant(&self, tenant: &TenantName) -> Result<u64, Fault> {
        let (mut published, mut after) = (0, None);
        loop {
            let entries = self.records.recent(tenant, after.as_deref(), PAGE).await?;
            for (_, id) in &entries {
                let Some(record) = self.records.find(tenant, id).await? else { continue };
                if !self.ports.results.exists(&ObjectKey::of_result(&record.request)?).await? {
                    self.publish(&record.request).await?;
                    published += 1;
                }
            }
            match entries.into_iter().next_back() {
                Some((cursor, _)) => after = Some(cursor),
                None => return Ok(published),
            }
        }
    }
}
