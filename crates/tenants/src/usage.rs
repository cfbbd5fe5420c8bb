//! What jobs have used, summed by day, by tenant or by a field of their metadata.

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::{Timestamp, tz::Offset};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Prices, TenantName};

/// What a sum is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UsageBy {
    /// The day (UTC) on which jobs came.
    Day,
    /// The tenant.
    Tenant,
    /// The value of this field of the jobs' metadata.
    Metadata(String),
}

/// The text says nothing to sum by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("usage is summed by `day`, `tenant` or `metadata.KEY`")]
pub struct ParseUsageByError;

impl FromStr for UsageBy {
    type Err = ParseUsageByError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.strip_prefix("metadata.")) {
            ("day", _) => Ok(Self::Day),
            ("tenant", _) => Ok(Self::Tenant),
            (_, Some(key)) if !key.is_empty() => Ok(Self::Metadata(key.to_owned())),
            _ => Err(ParseUsageByError),
        }
    }
}

impl fmt::Display for UsageBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day => f.write_str("day"),
            Self::Tenant => f.write_str("tenant"),
            Self::Metadata(key) => write!(f, "metadata.{key}"),
        }
    }
}

/// What one job or several have used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Used {
    /// Jobs that came, whatever became of them.
    pub jobs: u64,
    /// Pictures of completed jobs.
    pub images: u64,
    /// Millions of pixels of these pictures.
    pub megapixels: f64,
    /// Seconds of a device that completed jobs took.
    pub device_seconds: f64,
    /// What completed jobs cost at the prices of the day they came, in the installation's currency.
    pub price: f64,
}

impl Used {
    /// A job that has not completed, or did not: it costs nothing.
    pub const NOTHING: Self = Self { jobs: 1, images: 0, megapixels: 0.0, device_seconds: 0.0, price: 0.0 };

    /// A completed job.
    pub fn of_pictures(images: u64, megapixels: f64, device_seconds: f64, prices: Prices) -> Self {
        let price = prices.picture * images as f64 + prices.megapixel * megapixels;
        Self { jobs: 1, images, megapixels, device_seconds, price }
    }

    fn add(&mut self, other: &Self) {
        self.jobs += other.jobs;
        self.images += other.images;
        self.megapixels += other.megapixels;
        self.device_seconds += other.device_seconds;
        self.price += other.price;
    }
}

/// Sums of what jobs have used.
#[derive(Clone, Debug, PartialEq)]
pub struct UsageSums {
    by: UsageBy,
    sums: BTreeMap<String, Used>,
    total: Used,
}

impl UsageSums {
    /// No jobs yet.
    pub fn new(by: UsageBy) -> Self {
        Self { by, sums: BTreeMap::new(), total: Used::default() }
    }

    /// Adds a job.
    pub fn add(&mut self, tenant: &TenantName, created: Timestamp, metadata: &BTreeMap<String, String>, used: &Used) {
        let key = match &self.by {
            UsageBy::Day => Offset::UTC.to_datetime(created).date().to_string(),
            UsageBy::Tenant => tenant.to_string(),
            UsageBy::Metadata(field) => metadata.get(field).cloned().unwrap_or_default(),
        };
        self.sums.entry(key).or_default().add(used);
        self.total.add(used);
    }

    /// The sums in the order of their keys. Jobs without the field of the metadata have the empty key.
    pub fn sums(&self) -> &BTreeMap<String, Used> {
        &self.sums
    }

    /// The sum of all.
    pub fn total(&self) -> &Used {
        &self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_sum_by_is_read_as_it_is_written() {
        for text in ["day", "tenant", "metadata.project", "metadata.a.b"] {
            assert_eq!(text.parse::<UsageBy>().unwrap().to_string(), text);
        }
        for bad in ["", "days", "metadata", "metadata.", "Day"] {
            assert!(bad.parse::<UsageBy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_key_has_its_sum_and_all_have_one() {
        let (tenant, project) = ("acme".parse().unwrap(), BTreeMap::from([("project".to_owned(), "x".to_owned())]));
        let prices = Prices { picture: 0.5, megapixel: 2.0 };
        let used = Used::of_pictures(2, 3.0, 1.5, prices);
        assert_eq!(used.price, 7.0);
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let keys = |by: &str| {
            let mut sums = UsageSums::new(by.parse().unwrap());
            sums.add(&tenant, at("2026-11-29T23:59:59Z"), &project, &used);
            sums.add(&tenant, at("2026-11-30T00:00:00Z"), &BTreeMap::new(), &Used::NOTHING);
            assert_eq!(sums.total(), &Used { jobs: 2, ..used }, "{by}");
            let jobs = |(key, used): (&String, &Used)| format!("{key}:{}", used.jobs);
            sums.sums().iter().map(jobs).collect::<Vec<_>>()
        };
        assert_eq!(keys("day"), ["2026-11-29:1", "2026-11-30:1"]);
        assert_eq!(keys("tenant"), ["acme:2"]);
        assert_eq!(keys("metadata.project"), [":1", "x:1"]);
    }
}
