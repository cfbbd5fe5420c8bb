//! How the subject is looked for, the same for every command that looks.

use clap::{Args, ValueEnum};
use echogen_segmenter::{FinderConfig, Selection};

use crate::values;

/// How the subject is looked for. All roles need the same: cut-outs are kept under keys that depend on it.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Finding the subject")]
pub(crate) struct FinderOptions {
    /// Which box of several: the one with the best score, or the first one as in the published code
    #[arg(long, env = "ECHOGEN_SELECTION", value_enum, default_value = "best")]
    pub(crate) selection: BoxSelection,

    /// Least score of a box, 0 to 1
    #[arg(long, env = "ECHOGEN_THRESHOLD", value_name = "SCORE", default_value_t = 0.3, value_parser = values::share)]
    pub(crate) threshold: f32,

    /// By how much of its size the box grows on each side, 0 to 1
    #[arg(long, env = "ECHOGEN_PADDING", value_name = "SHARE", default_value_t = 0.0, value_parser = values::share)]
    pub(crate) padding: f32,
}

/// Which box of several is the subject.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BoxSelection {
    /// The best score above the threshold
    Best,
    /// The first box in the network's order with a score above 0.01
    Published,
}

impl From<BoxSelection> for Selection {
    fn from(selection: BoxSelection) -> Self {
        match selection {
            BoxSelection::Best => Self::Best,
            BoxSelection::Published => Self::Published,
        }
    }
}

impl FinderOptions {
    /// The rules of the search.
    pub(crate) fn config(&self) -> FinderConfig {
        FinderConfig {
            threshold: self.threshold,
            selection: self.selection.into(),
            padding: self.padding,
            ..FinderConfig::default()
        }
    }
}
