//! One tenant: what it may ask for, how much of it, and what that costs.

use echogen_ports::Rate;
use echogen_protocol::Lane;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most previews that a job may have.
const MAX_PREVIEWS: u32 = 16;

/// What a tenant may do.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    /// The lanes that its jobs may use.
    pub lanes: Vec<Lane>,
    /// How much it may use.
    pub limits: Limits,
    /// What it pays.
    pub prices: Prices,
    /// Folders of buckets from which subjects' pictures may be fetched, each `s3://BUCKET/` with or without a folder, and with
    /// a `/` at its end.
    pub pictures_from: Vec<String>,
    /// Hosts, in lower case, to which callbacks may go. Empty: all that the installation allows.
    pub callback_hosts: Vec<String>,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            lanes: Lane::ALL.to_vec(),
            limits: Limits::default(),
            prices: Prices::default(),
            pictures_from: Vec::new(),
            callback_hosts: Vec::new(),
        }
    }
}

/// How much a tenant may use.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests a second in the long run.
    pub requests_per_second: f64,
    /// Requests at once after a rest.
    pub burst: u32,
    /// Pictures asked for on one day (UTC).
    pub pictures_a_day: u64,
    /// Jobs that have not ended.
    pub jobs_held: u64,
    /// Previews of a job.
    pub previews: u32,
    /// Streams of events at once.
    pub streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_per_second: 50.0,
            burst: 100,
            pictures_a_day: 10_000,
            jobs_held: 1_000,
            previews: 4,
            streams: 50,
        }
    }
}

impl Limits {
    /// The limits of somebody who has the installation to himself: only what keeps a program that runs wild from filling it.
    pub fn wide() -> Self {
        Self {
            requests_per_second: 1_000.0,
            burst: 2_000,
            pictures_a_day: 1_000_000_000,
            jobs_held: 100_000,
            previews: MAX_PREVIEWS,
            streams: 1_000,
        }
    }

    /// The rate of requests.
    pub fn rate(&self) -> Rate {
        Rate { burst: self.burst, per_second: self.requests_per_second }
    }

    /// Why these limits have no sense, if they have none.
    pub(crate) fn fault(&self) -> Option<String> {
        if let Err(fault) = self.rate().interval_micros() {
            return Some(format!("requests_per_second and burst: {fault}"));
        }
        let previews = self.previews;
        (previews > MAX_PREVIEWS).then(|| format!("previews is {previews}; write at most {MAX_PREVIEWS}"))
    }
}

/// What a tenant pays, in the installation's currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// For each picture.
    pub picture: f64,
    /// For a million pixels.
    pub megapixel: f64,
}

impl Prices {
    /// Why these prices have no sense, if they have none.
    pub(crate) fn fault(&self) -> Option<String> {
        let bad = |(name, price): (&str, f64)| {
            let is_good = price.is_finite() && price >= 0.0;
            (!is_good).then(|| format!("{name} is {price}; write a number from 0"))
        };
        [("picture", self.picture), ("megapixel", self.megapixel)].into_iter().find_map(bad)
    }
}
