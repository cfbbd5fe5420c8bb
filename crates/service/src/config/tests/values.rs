//! Tests of the values of each kind, and of settings that contradict each other.

use echogen_protocol::PerScale;

use super::*;

#[test]
fn what_is_not_given_has_its_default_also_where_a_section_is_given_in_part() {
    let read = |text: &str| serde_json::from_str::<ServiceConfig>(text).unwrap();
    assert_eq!(read("{}"), ServiceConfig::default());
    let config = read(r#"{"store": {"url": "s3://a/b", "region": "eu"}, "worker": {"concurrency": {"encoder": 3}}}"#);
    assert_eq!((config.store.url.as_deref(), config.store.s3.region.as_str()), (Some("s3://a/b"), "eu"));
    assert_eq!((config.worker.concurrency.encoder, config.worker.concurrency.sampler), (3, 32));
    assert_eq!(config.worker.common, ServiceConfig::default().worker.common);
}

#[test]
fn text_is_read_by_the_kind_of_the_setting() {
    let config = Given::default()
        .variable("ECHOGEN_BROKER_QUORUM", "no")
        .variable("ECHOGEN_JOB_SEEDS", "1, 2,18446744073709551615")
        .variable("ECHOGEN_JOB_GUIDANCE_TEXT", "4,3.5")
        .variable("ECHOGEN_JOB_TEMPERATURE", " 0.5 ")
        .variable("ECHOGEN_FETCH_ALLOWED_HOSTS", "*.example.org,")
        .config();
    assert!(!config.broker.quorum);
    assert_eq!(config.job.seeds, [1, 2, u64::MAX]);
    assert_eq!(config.job.guidance_text, Some(PerScale::Each(vec![4.0, 3.5])));
    assert_eq!(config.job.temperature, Some(PerScale::All(0.5)));
    assert_eq!(config.fetch.http.allowed_hosts, ["*.example.org"]);
    let file = Given::file("[job]\naspect_ratio = 1.5\nseeds = [0x10]\n[sampler]\nmax_wait_seconds = 1").config();
    assert_eq!(file.job.aspect_ratio.unwrap().as_str(), "1.5");
    assert_eq!((file.job.seeds, file.sampler.max_wait_seconds), (vec![16], 1.0));
}

#[test]
fn numbers_out_of_their_bounds_are_refused_in_every_layer() {
    for wrong in ["-1", "nan", "NaN", "inf", "86400.5", "1e300", "x"] {
        let by_variable = Given::default().variable("ECHOGEN_WORKER_GRACE_SECONDS", wrong).error();
        assert!(by_variable.starts_with("ECHOGEN_WORKER_GRACE_SECONDS is "), "{by_variable}");
    }
    for wrong in ["-1", "nan", "inf", "86400.5", "1e300", "\"5\""] {
        let by_file = Given::file(&format!("worker.grace_seconds = {wrong}")).error();
        assert!(by_file.starts_with("worker.grace_seconds in echogen.toml, line 1 is "), "{by_file}");
    }
    let expect = |setting: &'static str, value: &str, expected: &str| {
        let error = Given::default().flag(setting, value).error();
        assert!(error.ends_with(expected), "{error}");
    };
    expect("worker.task_timeout_seconds", "0", "is 0.0; write a number above 0, at most 86400");
    expect("model.threads", "0", "write a whole number from 1 to 1024");
    expect("worker.concurrency.sampler", "70000", "write a whole number from 1 to 4096");
    expect("telemetry.trace_ratio", "1.5", "write a number from 0 to 1");
    expect("job.seeds", "1,-2", "write a whole number from 0");
    expect("job.quality", "300", "write a whole number from 1 to 100");
}

#[test]
fn every_duration_is_bounded() {
    for setting in settings().all.iter().filter(|setting| setting.name().ends_with("_seconds")) {
        let name = setting.name();
        assert!(setting.kind.read("86401").is_err() && setting.kind.read("-1").is_err(), "{name}");
        assert_eq!(setting.kind.read("0").is_err(), name.ends_with("timeout_seconds"), "{name}");
    }
}

#[test]
fn contradictions_are_refused_with_the_names_as_they_were_written() {
    let key = Given::default().variable("ECHOGEN_STORE_ACCESS_KEY_ID", "hunter2").error();
    assert!(key.contains("ECHOGEN_STORE_ACCESS_KEY_ID") && key.contains("store.secret_access_key"), "{key}");
    assert!(!key.contains("hunter2"), "{key}");
    let weights = Given::file("[worker.lane_weights]\nbulk = 0").error();
    assert!(
        weights.starts_with("worker.lane_weights.bulk in echogen.toml, line 2 is 0; write a whole number from 1"),
        "{weights}"
    );
    let none = Given::file("worker.lanes = []").error();
    assert!(none.starts_with("worker.lanes in echogen.toml, line 1 is empty, so no queue would be consumed"), "{none}");
    let limit = Given::file("worker.max_redeliveries = 30").error();
    assert!(
        limit.starts_with("worker.max_redeliveries in echogen.toml, line 1 is 30 and broker.delivery_limit"),
        "{limit}"
    );
    let seeds = Given::default().flag("job.seeds", "1,2").flag("job.count", "3").error();
    assert!(seeds.starts_with("--seeds gives 2 seeds, and --count says 3 pictures"), "{seeds}");
    let prefix = Given::default().flag("broker.url", "amqp://h").flag("broker.prefix", "a b").error();
    assert!(prefix.starts_with("--broker-prefix is \"a b\""), "{prefix}");
    let url = Given::default().variable("ECHOGEN_BROKER_URL", "http://me:hunter2@h").error();
    assert!(url.starts_with("ECHOGEN_BROKER_URL ") && !url.contains("hunter2"), "{url}");
    let endpoint = Given::file("store.url = \"s3://b\"\nstore.endpoint = \"nowhere\"").error();
    assert!(endpoint.starts_with("store.endpoint in echogen.toml, line 2 "), "{endpoint}");
}

#[test]
fn two_installations_that_differ_in_the_broker_s_prefix_do_not_share_a_cache() {
    let prefix = |given: Given| given.config().cache.redis.prefix;
    assert_eq!(prefix(Given::default()), "echogen:");
    assert_eq!(prefix(Given::file("broker.prefix = \"other\"")), "other:");
    assert_eq!(prefix(Given::file("broker.prefix = \"other\"\ncache.prefix = \"mine/\"")), "mine/");
}

#[test]
fn every_message_is_a_few_short_lines_whatever_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echogen.toml");
    let check = |layers: Layers, place: &str| {
        let Err(error) = layers.load() else { return };
        assert!(error.messages.len() <= 21, "{place}: {} messages", error.messages.len());
        for message in error.messages {
            let odd = |c: char| c.is_control() || c == '\u{202e}';
            assert!(message.chars().count() <= 1_000 && !message.contains(odd), "{place}: {message:?}");
        }
    };
    for odd in ["A\n\u{202e}".repeat(5_000), "a\nb".to_owned(), "\u{1b}[31m,\u{202e},7".to_owned()] {
        let text = toml::Value::from(odd.as_str()).to_string();
        for setting in &settings().all {
            let name = setting.name();
            let file = |text: &str| {
                std::fs::write(&path, text).unwrap();
                Layers { file: Some(path.clone()), ..Layers::default() }
            };
            check(file(&line(setting, &text)), &name);
            check(file(&line(setting, &format!("[{text}, 7]"))), &name);
            check(file(&format!("{name}.{text} = 1\n{text} = 2\n")), &name);
            check(Layers { flags: vec![(setting, Form::Value, odd.clone().into())], ..file("") }, &name);
            check(Layers { flags: vec![(setting, Form::File, odd.clone().into())], ..file("") }, &name);
        }
    }
    let many: String = (0..1_000).map(|number| format!("a{number} = 1\n")).collect();
    std::fs::write(&path, many).unwrap();
    check(Layers { file: Some(path), ..Layers::default() }, "many");
}
