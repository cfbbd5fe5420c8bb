//! The metrics as a page for people.

use std::fmt::Write;

use echogen_protocol::RoleName;

use super::{Kind, LIST, Label, Metric};

const HEAD: &str = "\
# Metrics

Every role serves `/metrics` in Prometheus's text format at the address of `--listen` (port 9464 by default). This page
is generated from the list in `crates/telemetry/src/metrics.rs`:

```sh
cargo run --release -p echogen-telemetry --example metrics_page > docs/metrics.md
```

No label contains the name of a job or of a tenant. Counters start at zero when their role starts. The values of queues
need RabbitMQ: the broker within one process does not report them.

| name | type | labels | roles | meaning |
|---|---|---|---|---|
";

/// Returns `docs/metrics.md`.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for metric in LIST {
        let Metric { name, kind, help, .. } = metric;
        let labels = or_none(metric.labels.iter().map(|label| format!("`{}`", label.name())).collect());
        let roles =
            if metric.roles == RoleName::WORKER_NAMES { "every role".to_owned() } else { metric.roles.join(", ") };
        line(&mut page, &format!("| `{name}` | {} | {labels} | {roles} | {help} |", kind.as_str()));
    }
    line(&mut page, "\n## Labels\n\n| metric | label | values |\n|---|---|---|");
    for metric in LIST {
        for label in metric.labels {
            let values = match label {
                Label::Of(_, values) => values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", "),
                Label::Open(_, words) => (*words).to_owned(),
            };
            line(&mut page, &format!("| `{}` | `{}` | {values} |", metric.name, label.name()));
        }
    }
    line(&mut page, "\n## Buckets\n\n| metric | upper bounds |\n|---|---|");
    for metric in LIST {
        if let Kind::Histogram(buckets) = metric.kind {
            let bounds: Vec<String> = buckets.iter().map(ToString::to_string).collect();
            line(&mut page, &format!("| `{}` | {} |", metric.name, bounds.join(", ")));
        }
    }
    page
}

fn or_none(words: Vec<String>) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn line(page: &mut String, text: &str) {
    // Writing to memory cannot fail.
    writeln!(page, "{text}").ok();
}
