//! What gateways of released versions have written: records of jobs, and indexes of batches.
//!
//! As `crates/worker/tests/wire/` for what stages send: a sample in `tests/fixtures/wire/` never changes, the present version
//! reads it, writes the same bytes for the same content, and ignores what a later version adds.

use std::path::Path;

use echogen_protocol::Job;
use echogen_tenants::Prices;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::jobs::JobRecord;

fn sample(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/wire").join(name);
    std::fs::read_to_string(path).unwrap()
}

/// The sample is what is written of the content, and is read as the content, now and with what a later version adds.
#[track_caller]
pub(crate) fn check<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(name: &str, content: &T) {
    assert_eq!(serde_json::to_string(content).unwrap(), sample(name), "{name} for readers of yesterday");
    let mut later: Value = serde_json::from_str(&sample(name)).unwrap();
    assert_eq!(&serde_json::from_value::<T>(later.clone()).unwrap(), content, "{name} of yesterday");
    for each in later.as_array_mut().map_or_else(Vec::new, |entries| entries.iter_mut().collect()) {
        each["a_word_of_tomorrow"] = json!("word");
    }
    if let Some(fields) = later.as_object_mut() {
        for inner in fields.values_mut().filter(|value| value["picture"].is_number()) {
            inner["a_price_of_tomorrow"] = json!(2);
        }
        fields.insert("tomorrows_list".to_owned(), json!([1, { "a": null }]));
    }
    assert_eq!(&serde_json::from_value::<T>(later).unwrap(), content, "{name} of tomorrow");
}

#[test]
fn records_of_jobs_are_read_and_written_across_versions() {
    let job = Job::parse(sample("job.json").as_bytes()).unwrap();
    let created = "2026-08-01T12:00:00.5Z".parse().unwrap();
    let prices = Prices { picture: 0.25, megapixel: 0.5 };
    let record = JobRecord::new("acme".parse().unwrap(), job.clone(), created, Some("batch-1".to_owned()), prices);
    check("gateway-record.json", &record);
    check("gateway-record-least.json", &JobRecord::new("acme".parse().unwrap(), job, created, None, Prices::default()));
}
