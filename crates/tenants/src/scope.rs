//! What a key is for.

use std::{fmt, str::FromStr};

use echogen_protocol::ParseNameError;
use echogen_protocol::text::quoted;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The tenant's own jobs, pictures, batches and usage.
    Jobs,
    /// The installation: queues, dead letters, workers, all tenants.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Jobs, Self::Admin];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        found.ok_or_else(|| ParseNameError { what: "scope", text: quoted(text), known: &["jobs", "admin"] })
    }
}
