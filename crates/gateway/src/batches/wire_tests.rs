//! Indexes of batches as gateways of released versions have written them.

use echogen_protocol::JobId;

use super::index::{Description, Entry};
use crate::wire_tests::check;

#[test]
fn batches_are_read_and_written_across_versions() {
    let created = "2026-08-01T12:00:00.5Z".parse().unwrap();
    let begun = Description::new("batch-1".to_owned(), created);
    check("gateway-batch.json", &Description { lines: 3, jobs: 2, refused: 1, complete: true, ..begun });
    let job = |line, id: &str, destination: Option<&str>| Entry::Job {
        line,
        job: JobId(id.to_owned()),
        destination: destination.map(str::to_owned),
    };
    let refused = Entry::Error { line: 2, error: "prompt: is empty".to_owned() };
    let lines = vec![job(1, "acme.order-7.b", Some("results/today")), refused, job(3, "acme.order-8", None)];
    check("gateway-batch-lines.json", &lines);
}
