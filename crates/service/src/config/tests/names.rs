//! Tests of the list of settings itself.

use std::collections::BTreeSet;

use super::*;

#[test]
fn every_setting_and_every_section_is_documented() {
    for setting in &settings().all {
        let (name, help) = (setting.name(), &setting.help);
        assert!(help.ends_with('.') && setting.summary().len() > 5, "{name} has no sentence: {help:?}");
        // Help texts are for users: no rustdoc links, and no default, which is printed elsewhere.
        assert!(!help.contains("[`") && !help.contains("Default:"), "{name}: {help:?}");
    }
    for section in &settings().sections {
        assert!(section.help.ends_with('.'), "section {} has no sentence", section.name);
    }
}

#[test]
fn names_are_unique_in_every_layer_and_follow_the_rule() {
    let all = &settings().all;
    assert!(all.len() > 100, "{}", all.len());
    let mut flags: Vec<String> = all.iter().flat_map(|s| [vec![s.flag()], s.aliases.clone()].concat()).collect();
    flags.extend(all.iter().filter(|s| s.is_secret()).map(|s| format!("{}-file", s.flag())));
    let mut variables: Vec<String> = all.iter().map(Setting::variable).collect();
    variables.extend(all.iter().filter(|s| s.is_secret()).map(|s| format!("{}_FILE", s.variable())));
    for names in [flags, variables] {
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
    }
    let names = |name: &str| (setting(name).variable(), setting(name).flag());
    assert_eq!(names("broker.url"), ("ECHOGEN_BROKER_URL".into(), "broker-url".into()));
    assert_eq!(names("worker.concurrency.dispatcher").1, "worker-concurrency-dispatcher");
    assert_eq!(names("model.device"), ("ECHOGEN_MODEL_DEVICE".into(), "device".into()));
}

#[test]
fn every_section_of_the_type_has_settings() {
    let sections: BTreeSet<&str> = settings().all.iter().map(Setting::section).collect();
    let expected = [
        "broker",
        "cache",
        "callbacks",
        "fetch",
        "finder",
        "gateway",
        "job",
        "model",
        "products",
        "safety",
        "sampler",
        "store",
        "telemetry",
        "worker",
    ];
    assert_eq!(sections, BTreeSet::from(expected));
    assert!(settings().sections.iter().any(|section| section.name == "worker.concurrency"));
}

#[test]
fn secrets_are_known_by_their_type() {
    let secrets: BTreeSet<String> = settings().all.iter().filter(|s| s.is_secret()).map(Setting::name).collect();
    let expected = [
        "broker.password",
        "broker.url",
        "broker.user",
        "cache.password",
        "cache.url",
        "cache.user",
        "callbacks.secret",
        "gateway.key",
        "gateway.sealing_secret",
        "model.hub_token",
        "safety.secret",
        "store.access_key_id",
        "store.secret_access_key",
        "store.session_token",
    ];
    assert_eq!(secrets, expected.map(String::from).into());
}

#[test]
fn what_the_schema_calls_a_default_is_the_type_s() {
    // Giving every default explicitly is the same as giving none.
    let known = settings().all.iter().filter_map(|setting| Some((setting, setting.default.as_ref()?)));
    let file: String = known.map(|(setting, default)| line(setting, &setting.kind.written(default))).collect();
    assert!(file.lines().count() > 70, "{file}");
    assert_eq!(Given::file(&file).config(), ServiceConfig::default());
}

#[test]
fn former_and_mistyped_names_lead_to_the_right_ones() {
    let variable = |name: &str| {
        let known: Vec<String> = settings().all.iter().map(Setting::variable).collect();
        nearest(name, known.iter().map(String::as_str)).map(str::to_owned)
    };
    for (wrong, right) in [
        ("ECHOGEN_AMQP_URL", "ECHOGEN_BROKER_URL"),
        ("ECHOGEN_AMQP_PREFIX", "ECHOGEN_BROKER_PREFIX"),
        ("ECHOGEN_REDIS_URL", "ECHOGEN_CACHE_URL"),
        ("ECHOGEN_STORE", "ECHOGEN_STORE_URL"),
        ("ECHOGEN_S3_ENDPOINT", "ECHOGEN_STORE_ENDPOINT"),
        ("ECHOGEN_S3_ACCESS_KEY_ID", "ECHOGEN_STORE_ACCESS_KEY_ID"),
        ("ECHOGEN_ALLOW_HOSTS", "ECHOGEN_FETCH_ALLOWED_HOSTS"),
        ("ECHOGEN_CALLBACK_SECRET", "ECHOGEN_CALLBACKS_SECRET"),
        ("ECHOGEN_INTAKE_MESSAGES", "ECHOGEN_BROKER_INTAKE_MAX_MESSAGES"),
        ("ECHOGEN_GRACE", "ECHOGEN_WORKER_GRACE_SECONDS"),
        ("ECHOGEN_MAX_BATCH", "ECHOGEN_SAMPLER_MAX_BATCH"),
        ("ECHOGEN_BUNDLE", "ECHOGEN_MODEL_BUNDLE"),
        ("ECHOGEN_GUIDANCE_TEXT", "ECHOGEN_JOB_GUIDANCE_TEXT"),
        ("ECHOGEN_LOG_FORMAT", "ECHOGEN_TELEMETRY_LOG_FORMAT"),
        ("ECHOGEN_BROKER_ULR", "ECHOGEN_BROKER_URL"),
    ] {
        assert_eq!(variable(wrong).as_deref(), Some(right), "{wrong}");
    }
    assert_eq!(variable("ECHOGEN_XYZZY"), None);
}
