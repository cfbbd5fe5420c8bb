//! Parses Prometheus's text format and compares it with the list of metrics: the checks of `promtool check metrics`,
//! and more.

use std::collections::{BTreeMap, BTreeSet};

use echogen_telemetry::{Kind, LIST, Label, Metric};

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// The metrics that a role exposes.
#[derive(Clone, Debug)]
pub(crate) struct Exposition {
    samples: Vec<Sample>,
    types: BTreeMap<String, String>,
    helps: BTreeMap<String, String>,
}

impl Exposition {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut found = Self { samples: Vec::new(), types: BTreeMap::new(), helps: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').ok_or_else(|| format!("no help: {line}"))?;
                found.helps.insert(name.to_owned(), help.to_owned());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| format!("no type: {line}"))?;
                found.types.insert(name.to_owned(), kind.to_owned());
            } else {
                found.samples.push(sample(line).ok_or_else(|| format!("no sample: {line}"))?);
            }
        }
        Ok(found)
    }

    /// Returns the sum of all samples with this name and these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        };
        self.samples.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// Returns every error in what `role` exposes.
    pub(crate) fn faults(&self, role: &str) -> Vec<String> {
        let mut faults = Vec::new();
        let listed: BTreeMap<&str, &Metric> = LIST.iter().map(|metric| (metric.name, metric)).collect();
        for name in self.types.keys().filter(|name| !listed.contains_key(name.as_str())) {
            faults.push(format!("{name} is in no list"));
        }
        let mut seen = BTreeSet::new();
        for sample in &self.samples {
            if !seen.insert(format!("{}{:?}", sample.name, sample.labels)) {
                faults.push(format!("twice: {sample:?}"));
            }
            if metric_of(sample).is_none() {
                faults.push(format!("of no metric: {sample:?}"));
            }
        }
        for metric in LIST {
            let samples: Vec<&Sample> = self
                .samples
                .iter()
                .filter(|sample| metric_of(sample).is_some_and(|of| of.name == metric.name))
                .collect();
            if samples.is_empty() {
                if metric.roles.contains(&role) {
                    faults.push(format!("the {role} does not show {}", metric.name));
                }
                continue;
            }
            self.check_head(metric, &mut faults);
            samples.iter().for_each(|sample| check_sample(metric, sample, &mut faults));
            if let Kind::Histogram(_) = metric.kind {
                check_histogram(metric, &samples, &mut faults);
            }
        }
        faults
    }

    fn check_head(&self, metric: &Metric, faults: &mut Vec<String>) {
        let Metric { name, kind, help, .. } = metric;
        if self.types.get(*name).is_none_or(|shown| shown != kind.as_str()) {
            faults.push(format!("{name} is shown as {:?}", self.types.get(*name)));
        }
        if self.helps.get(*name).is_none_or(|shown| shown != help) {
            faults.push(format!("{name} has another help: {:?}", self.helps.get(*name)));
        }
    }
}

/// Returns the metric that a sample belongs to, if its name is the metric's or has a suffix of the metric's type.
fn metric_of(sample: &Sample) -> Option<&'static Metric> {
    LIST.iter().find(|metric| match (sample.name.strip_prefix(metric.name), metric.kind) {
        (Some(rest), Kind::Histogram(_)) => ["_bucket", "_sum", "_count"].contains(&rest),
        (Some(rest), _) => rest.is_empty(),
        (None, _) => false,
    })
}

fn check_sample(metric: &Metric, sample: &Sample, faults: &mut Vec<String>) {
    let names: BTreeSet<&str> = sample.labels.keys().map(String::as_str).filter(|name| *name != "le").collect();
    let wanted: BTreeSet<&str> = metric.labels.iter().map(|label| label.name()).collect();
    if names != wanted {
        faults.push(format!("labels {names:?} instead of {wanted:?}: {sample:?}"));
    }
    for label in metric.labels {
        let value = sample.labels.get(label.name()).map_or("", String::as_str);
        if let Label::Of(name, values) = label
            && !values.contains(&value)
        {
            faults.push(format!("{name} is none of {values:?}: {sample:?}"));
        }
    }
    let is_sane = sample.value.is_finite() && (sample.value >= 0.0);
    if !is_sane {
        faults.push(format!("no number that can be: {sample:?}"));
    }
}

/// Checks that the buckets of each series increase up to the count.
fn check_histogram(metric: &Metric, samples: &[&Sample], faults: &mut Vec<String>) {
    let mut series: BTreeMap<String, Vec<&Sample>> = BTreeMap::new();
    for sample in samples {
        let labels: Vec<_> = sample.labels.iter().filter(|(name, _)| *name != "le").collect();
        series.entry(format!("{labels:?}")).or_default().push(sample);
    }
    for (labels, samples) in series {
        let of = |ending: &str| -> Vec<f64> {
            let name = format!("{}{ending}", metric.name);
            samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).collect()
        };
        let (buckets, count) = (of("_bucket"), of("_count"));
        let grows = buckets.windows(2).all(|pair| pair[0] <= pair[1]);
        if !grows || buckets.last() != count.first() || of("_sum").len() != 1 {
            faults.push(format!("{}{labels} is no histogram: {buckets:?}, count {count:?}", metric.name));
        }
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some(Sample { name: series.to_owned(), labels: BTreeMap::new(), value });
    };
    let mut found = BTreeMap::new();
    for label in labels.strip_suffix('}')?.split("\",") {
        let (name, value) = label.split_once("=\"")?;
        found.insert(name.to_owned(), value.trim_end_matches('"').to_owned());
    }
    Some(Sample { name: name.to_owned(), labels: found, value })
}

#[test]
fn the_check_sees_what_it_is_for() {
    let faults = |text: &str| Exposition::parse(text).expect("it can be read").faults("nobody");
    let name = "echogen_single_flight_waits_total";
    let help = LIST.iter().find(|metric| metric.name == name).expect("it is listed").help;
    let head = format!("# HELP {name} {help}\n# TYPE {name} counter\n");
    let good = format!("{head}{name}{{kind=\"subject\"}} 3\n");
    assert_eq!(faults(&good), Vec::<String>::new());
    assert_eq!(faults(&good.replace("} 3", "} -3")).len(), 1);
    assert_eq!(faults(&good.replace("\"subject\"", "\"a job's name\"")).len(), 1);
    assert_eq!(faults(&good.replace("kind=", "job=")).len(), 2);
    assert_eq!(faults(&good.replace(" counter\n", " gauge\n")).len(), 1);
    assert_eq!(faults(&good.replace(help, "Other words.")).len(), 1);
    assert_eq!(faults(&format!("{good}{name}{{kind=\"subject\"}} 4\n")).len(), 1, "twice");
    assert_eq!(faults(&format!("{good}# TYPE echogen_new gauge\nechogen_new 1\n")).len(), 2, "unlisted");
    assert!(Exposition::parse(&good).expect("it can be read").faults("encoder").len() > 5, "the rest is missing");
    assert!(Exposition::parse(&format!("{name}\n")).is_err());
    let help = LIST.iter().find(|metric| metric.name == "echogen_batch_size").expect("it is listed").help;
    let histogram = format!(
        "# HELP echogen_batch_size {help}\n# TYPE echogen_batch_size histogram\nechogen_batch_size_bucket{{le=\"1\"}} 2\n\
         echogen_batch_size_bucket{{le=\"+Inf\"}} 2\nechogen_batch_size_sum 2\nechogen_batch_size_count 2\n"
    );
    assert_eq!(faults(&histogram), Vec::<String>::new());
    assert_eq!(faults(&histogram.replace("size_count 2", "size_count 3")).len(), 1);
}
