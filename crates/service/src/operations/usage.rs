//! Sums what the jobs of the HTTP API have used, from their records and results in the store; no server is asked.

use std::sync::Arc;

use echogen_gateway::{
    Records,
    usage::{UsageRange, add},
};
use echogen_ports::{Fault, ObjectStore};
use echogen_tenants::{TenantName, UsageBy, UsageSums};
use jiff::Timestamp;

use crate::{Failure, backends::Stores, config::ServiceConfig};

/// Which jobs, and what to sum by.
#[derive(Clone, Debug)]
pub struct UsageQuery {
    /// Only this tenant's.
    pub tenant: Option<TenantName>,
    /// Only those that came at this time or later.
    pub from: Option<Timestamp>,
    /// Only those that came before this time.
    pub until: Option<Timestamp>,
    /// What a sum is for.
    pub by: UsageBy,
}

/// Sums what jobs have used.
pub async fn usage(config: &ServiceConfig, query: &UsageQuery) -> Result<UsageSums, Failure> {
    let store = Stores::open(config).await?.results;
    sum(&store, query).await.map_err(|error| Failure::refused("usage cannot be summed", &error))
}

async fn sum(store: &Arc<dyn ObjectStore>, query: &UsageQuery) -> Result<UsageSums, Fault> {
    let UsageQuery { tenant, from, until, by } = query.clone();
    let (records, mut sums) = (Records::new(Arc::clone(store)), UsageSums::new(by.clone()));
    let tenants = match tenant {
        Some(tenant) => vec![tenant],
        None => records.tenants().await?,
    };
    let range = UsageRange { from, until, by, after: None, most: usize::MAX };
    for tenant in tenants {
        add(store, &records, &tenant, &range, &mut sums).await?;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests;
