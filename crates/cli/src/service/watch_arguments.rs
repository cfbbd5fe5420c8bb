//! Options of the endpoint, and of the canary.

use clap::Args;
use echogen_protocol::{Lane, PixelBudget};
use echogen_service::config::Listen;

use super::arguments::BrokerOptions;
use crate::values;

pub(crate) const CANARY_EXAMPLES: &str = "\
Examples:
  Is the whole system there? Exit code 0 if a job came back within a minute:
    echogen canary --limit 60
  One every five minutes, its latency as a metric at http://…:9464/metrics:
    echogen canary --every 300

Every canary has a picture of its own, so that no stage finds its work done already. What it leaves lies
below canary/ in the results.";

/// Where this process can be watched.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Watching")]
pub(crate) struct WatchOptions {
    /// Address of /livez, /readyz, /metrics and /log, such as `127.0.0.1:9464`, or `""` for none; otherwise
    /// 0.0.0.0:9464 if that is free
    #[arg(long, env = "ECHOGEN_LISTEN", value_name = "ADDRESS", value_parser = values::listen)]
    pub(crate) listen: Option<Listen>,
}

/// `echogen canary`.
#[derive(Args, Debug, Clone)]
pub(crate) struct CanaryArguments {
    /// Seconds that the job may take from its sending to the news of its end
    #[arg(long, env = "ECHOGEN_LIMIT", value_name = "SECONDS", default_value_t = 120.0, value_parser = values::seconds)]
    pub(crate) limit: f64,

    /// Send one again and again, so many seconds apart; otherwise one
    #[arg(long, env = "ECHOGEN_EVERY", value_name = "SECONDS", value_parser = values::seconds)]
    pub(crate) every: Option<f64>,

    /// Lane: interactive, standard or bulk
    #[arg(long, env = "ECHOGEN_LANE", value_name = "LANE", default_value = "interactive", value_parser = values::lane())]
    pub(crate) lane: Lane,

    /// Size of the picture in millions of pixels; otherwise the bundle's default
    #[arg(long, env = "ECHOGEN_PIXELS", value_name = "BUDGET", value_parser = values::pixel_budget())]
    pub(crate) pixels: Option<PixelBudget>,

    /// See [`WatchOptions`].
    #[command(flatten)]
    pub(crate) watch: WatchOptions,

    /// See [`BrokerOptions`].
    #[command(flatten)]
    pub(crate) broker: BrokerOptions,
}
