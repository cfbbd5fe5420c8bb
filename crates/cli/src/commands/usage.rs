//! `echogen usage`: sums what the jobs of the HTTP API have used.

use clap::Args;
use echogen_service::{
    Exit, Failure, block_on,
    config::ServiceConfig,
    console::{print_json, print_line},
    operations::usage::{UsageQuery, usage},
};
use echogen_tenants::{TenantName, UsageBy, UsageSums, Used};
use jiff::{Timestamp, civil::Date, tz::Offset};
use serde_json::json;

pub(crate) const USAGE_EXAMPLES: &str = "\
Examples:
  What each tenant used in November:
    echogen usage --from 2026-11-01 --to 2026-11-30 --by tenant
  One tenant's use by day:
    echogen usage --tenant acme
  By a field of the jobs' metadata, for a program:
    echogen usage --tenant acme --by metadata.project --json

Jobs count on the day (UTC) on which they came, and cost what was the price then. Only completed jobs
cost something. Everything is read from the result store; jobs that were deleted there are not counted.";

/// `echogen usage`.
#[derive(Args, Clone, Debug)]
pub(crate) struct UsageArguments {
    /// Only jobs of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<TenantName>,

    /// Only jobs that came on this day (UTC) or later, such as 2026-11-01
    #[arg(long, value_name = "DATE", value_parser = date)]
    from: Option<Date>,

    /// Only jobs that came on this day (UTC) or earlier
    #[arg(long, value_name = "DATE", value_parser = date)]
    to: Option<Date>,

    /// What to sum by: `day`, `tenant` or `metadata.KEY`
    #[arg(long, value_name = "WHAT", default_value = "day")]
    by: UsageBy,
}

fn date(text: &str) -> Result<Date, String> {
    text.parse().map_err(|_| "write a day like 2026-11-30".to_owned())
}

/// Runs `echogen usage`.
pub(crate) fn run(arguments: &UsageArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    let query = query(arguments)?;
    block_on(async {
        let sums = usage(config, &query).await?;
        if as_json {
            sums.sums().iter().for_each(|(key, used)| print_json("usage", &as_value(Some(key), used)));
            print_json("total", &as_value(None, sums.total()));
        } else {
            lines(&sums).iter().for_each(|line| print_line(line));
        }
        Ok(Exit::Success)
    })
}

fn query(arguments: &UsageArguments) -> Result<UsageQuery, Failure> {
    let UsageArguments { tenant, from, to, by } = arguments.clone();
    if from.is_some_and(|from| to.is_some_and(|to| to < from)) {
        return Err(Failure::usage("--to is before --from"));
    }
    let midnight = |day: Date| -> Result<Timestamp, Failure> {
        let midnight = Offset::UTC.to_timestamp(day.at(0, 0, 0, 0));
        midnight.map_err(|_| Failure::usage(format!("{day} is out of range")))
    };
    let next = to.map(|to| to.tomorrow().map_err(|_| Failure::usage(format!("{to} is out of range")))).transpose()?;
    Ok(UsageQuery { tenant, from: from.map(midnight).transpose()?, until: next.map(midnight).transpose()?, by })
}

fn as_value(key: Option<&str>, used: &Used) -> serde_json::Value {
    let mut value = json!(used);
    if let Some(key) = key {
        value["key"] = json!(key);
    }
    value
}

/// One line for each sum, with the numbers below each other.
fn lines(sums: &UsageSums) -> Vec<String> {
    let shown = |key: &str| if key.is_empty() { "(none)".to_owned() } else { echogen_protocol::text::one_line(key) };
    let keyed = sums.sums().iter().map(|(key, used)| (shown(key), used));
    let all: Vec<(String, &Used)> = keyed.chain([("total".to_owned(), sums.total())]).collect();
    let width = all.iter().map(|(key, _)| key.chars().count()).max().unwrap_or(0);
    let line = |(key, used): &(String, &Used)| {
        let Used { jobs, images, megapixels, device_seconds, price } = used;
        format!(
            "{key:<width$}  {jobs:>7} jobs  {images:>7} pictures  {megapixels:>10.3} megapixels  \
             {device_seconds:>10.1} device seconds  price {price:>10.2}"
        )
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn arguments(from: Option<&str>, to: Option<&str>) -> UsageArguments {
        let day = |text: Option<&str>| text.map(|text| date(text).unwrap());
        UsageArguments { tenant: None, from: day(from), to: day(to), by: UsageBy::Day }
    }

    #[test]
    fn the_last_day_counts_to_its_end() {
        let asked = query(&arguments(Some("2026-11-30"), Some("2026-11-30"))).unwrap();
        assert_eq!(asked.from, Some("2026-11-30T00:00:00Z".parse().unwrap()));
        assert_eq!(asked.until, Some("2026-12-01T00:00:00Z".parse().unwrap()));
        assert!(query(&arguments(Some("2026-11-30"), Some("2026-11-29"))).is_err());
        assert!(date("30.11.2026").unwrap_err().contains("2026-11-30"));
    }

    #[test]
    fn numbers_are_below_each_other() {
        let mut sums = UsageSums::new("metadata.project".parse().unwrap());
        let used = Used { jobs: 1, images: 12, megapixels: 12.582_912, device_seconds: 7.25, price: 0.12 };
        let project = BTreeMap::from([("project".to_owned(), "posters".to_owned())]);
        sums.add(&"acme".parse().unwrap(), Timestamp::UNIX_EPOCH, &project, &used);
        sums.add(&"acme".parse().unwrap(), Timestamp::UNIX_EPOCH, &BTreeMap::new(), &Used::NOTHING);
        insta::assert_snapshot!(lines(&sums).join("\n"));
    }
}
