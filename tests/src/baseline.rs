//! The recorded results of the benchmarks, with which a run is compared.
//!
//! `tests/bench/baseline.toml` holds them, one table for each benchmark. They are ratios, CPU seconds and latencies
//! measured on one machine, so a difference should be investigated but is never a failure.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// One measured number of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Its name in the file, such as `ratio-new-subjects`.
    pub name: &'static str,
    /// The value measured in this run.
    pub value: f64,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
struct Recorded(BTreeMap<String, BTreeMap<String, f64>>);

impl Recorded {
    fn read() -> anyhow::Result<Self> {
        let path = path();
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("{} holds no recorded figures", path.display()))
    }
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/baseline.toml")
}

/// Describes each number next to the recorded one, one line for each.
pub fn compare(benchmark: &str, figures: &[Figure]) -> anyhow::Result<Vec<String>> {
    let recorded = Recorded::read()?;
    let of_this = recorded.0.get(benchmark);
    Ok(figures.iter().map(|figure| line(figure, of_this.and_then(|all| all.get(figure.name)).copied())).collect())
}

fn line(Figure { name, value }: &Figure, recorded: Option<f64>) -> String {
    match recorded {
        Some(recorded) => {
            let change = (value / recorded - 1.0) * 100.0;
            format!("{name:28} {value:8.2}  recorded {recorded:8.2}  {change:+5.0} %")
        }
        None => format!("{name:28} {value:8.2}  not recorded"),
    }
}

/// Records the numbers for later runs.
pub fn record(benchmark: &str, figures: &[Figure]) -> anyhow::Result<()> {
    let mut recorded = Recorded::read()?;
    let rounded = figures.iter().map(|figure| (figure.name.to_owned(), (figure.value * 1_000.0).round() / 1_000.0));
    recorded.0.insert(benchmark.to_owned(), rounded.collect());
    Ok(fs::write(path(), toml::to_string(&recorded)?)?)
}
