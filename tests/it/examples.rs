//! The examples that a new user runs first are valid.

use std::{collections::BTreeSet, fs, path::Path};

use echogen_protocol::{ImageLocation, Job};

#[test]
fn every_example_job_parses_and_its_subject_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = root.join("examples");
    let text = fs::read_to_string(folder.join("jobs.jsonl")).expect("examples/jobs.jsonl is readable");
    let mut ids = BTreeSet::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let job = Job::parse(line.as_bytes()).unwrap_or_else(|error| panic!("line {}: {error}", number + 1));
        let Ok(ImageLocation::File(file)) = job.subject.image.location() else {
            panic!("line {}: no file", number + 1)
        };
        let found = [&folder, &root].into_iter().any(|base| base.join(file).is_file());
        assert!(found, "line {}: there is no file {file}", number + 1);
        assert!(ids.insert(job.id.clone()), "line {}: the id {} is there twice", number + 1, job.id);
    }
    assert!(!ids.is_empty());
}
