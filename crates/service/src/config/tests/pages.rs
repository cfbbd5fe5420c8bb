//! The committed files that are generated from the list of settings.

use std::path::Path;

use super::*;

/// If this variable is set, the committed files are rewritten.
const UPDATE_VARIABLE: &str = "ECHOGEN_TEST_UPDATE";

#[track_caller]
fn is_committed(path: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os(UPDATE_VARIABLE).is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == expected, "{} is out of date; run this test with {UPDATE_VARIABLE}=1", path.display());
}

#[test]
fn the_committed_default_file_schema_and_page_are_those_of_the_types() {
    is_committed("deploy/echogen.default.toml", &default_file());
    // The Helm chart's values are checked against it.
    is_committed("deploy/echogen.schema.json", &format!("{:#}\n", schema()));
    is_committed("docs/configuration.md", &page());
}

#[test]
fn the_file_that_compose_mounts_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/echogen.toml");
    let config = Given::file(&std::fs::read_to_string(path).unwrap()).config();
    assert_eq!(config.store.url.as_deref(), Some("s3://echogen"));
}

#[test]
fn the_default_file_is_the_default_configuration_commented_or_not() {
    assert_eq!(Given::file(&default_file()).config(), ServiceConfig::default());
    let uncommented: String = default_file()
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.split_once(" = ").is_some_and(|(name, _)| !name.contains(' ')) => setting,
            _ => line,
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let given = uncommented.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).count();
    assert_eq!(given, settings().all.len(), "{uncommented}");
    assert_eq!(Given::file(&uncommented).config(), ServiceConfig::default());
}

#[test]
fn the_schema_takes_what_the_loader_takes_and_refuses_what_it_refuses() {
    let schema = jsonschema::validator_for(&schema()).unwrap();
    let is_valid = |text: &str| {
        let table: toml::Table = toml::from_str(text).unwrap();
        schema.is_valid(&serde_json::to_value(table).unwrap())
    };
    let mut all = String::new();
    for setting in &settings().all {
        let text = line(setting, &sample(setting).1);
        assert!(is_valid(&text), "{text}");
        all.push_str(&text);
    }
    assert!(is_valid(&all) && is_valid("broker.url_file = \"/run/secrets/broker\""));
    for wrong in [
        "broker.ulr = \"a\"",
        "redis.url = \"a\"",
        "model.threads = 0",
        "model.dtype = \"f8\"",
        "worker.task_timeout_seconds = 0",
        "worker.grace_seconds = 86401",
        "worker.concurrency.encoder = \"3\"",
        "broker.prefix_file = \"/a\"",
    ] {
        assert!(!is_valid(wrong), "{wrong}");
        assert!(Given::file(wrong).read().is_err(), "{wrong}");
    }
}
