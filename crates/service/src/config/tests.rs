//! The type itself: what is not said has its default.

use super::*;

#[test]
fn what_is_not_given_has_its_default_also_where_a_section_is_given_in_part() {
    let read = |text: &str| serde_json::from_str::<ServiceConfig>(text).unwrap();
    assert_eq!(read("{}"), ServiceConfig::default());
    let config = read(r#"{"store": {"url": "s3://a/b", "region": "eu"}, "worker": {"concurrency": {"encoder": 3}}}"#);
    assert_eq!((config.store.url.as_str(), config.store.s3.region.as_str()), ("s3://a/b", "eu"));
    assert_eq!((config.worker.concurrency.encoder, config.worker.concurrency.sampler), (3, 32));
    assert_eq!(config.worker.common, ServiceConfig::default().worker.common);
}
