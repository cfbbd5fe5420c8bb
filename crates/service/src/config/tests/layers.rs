//! Tests of the precedence of layers, and of the error messages for each.

use super::*;

#[test]
fn every_setting_can_be_given_in_all_three_ways() {
    for setting in &settings().all {
        let (name, (text, toml)) = (setting.name(), sample(setting));
        let layers = |file: String, variables: Vec<(OsString, OsString)>, flags| {
            let (_folder, path) = folder_of_secret(&file);
            let read = Layers { file: Some(path), variables, flags }.read();
            read.unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        let by_file = layers(line(setting, &toml), Vec::new(), Vec::new());
        let by_variable = layers(String::new(), vec![(setting.variable().into(), (&text).into())], Vec::new());
        let by_flag = layers(String::new(), Vec::new(), vec![(setting, Form::Value, (&text).into())]);
        assert_ne!(by_file.config, ServiceConfig::default(), "{name} = {toml} changes nothing");
        assert_eq!(by_file.config, by_variable.config, "{name}");
        assert_eq!(by_file.config, by_flag.config, "{name}");
        let origin = |loaded: &Loaded| loaded.shown().find(|shown| shown.name == name).unwrap().origin.to_string();
        assert!(origin(&by_file).starts_with("file ") && origin(&by_file).ends_with(", line 1"));
        assert_eq!(origin(&by_variable), format!("environment {}", setting.variable()));
        assert_eq!(origin(&by_flag), format!("flag --{}", setting.flag()));
    }
}

#[test]
fn a_flag_counts_before_the_environment_before_the_file_before_the_default() {
    let device = |given: Given| given.config().model.device.to_string();
    let file = || Given::file("[model]\ndevice = \"cuda:1\"");
    assert_eq!(device(Given::default()), "auto");
    assert_eq!(device(file()), "cuda:1");
    assert_eq!(device(file().variable("ECHOGEN_MODEL_DEVICE", "cuda:2")), "cuda:2");
    let all = || file().variable("ECHOGEN_MODEL_DEVICE", "cuda:2").flag("model.device", "cuda:3");
    assert_eq!(device(all()), "cuda:3");
    // Precedence applies to each setting, not to a whole section.
    let config = all().flag("model.bundle", "echogen-2b").config();
    assert_eq!((config.model.bundle.as_str(), config.model.device.to_string().as_str()), ("echogen-2b", "cuda:3"));
}

#[test]
fn what_is_empty_is_not_given_and_an_empty_flag_sets_back() {
    let file = || Given::file("[model]\nbundle = \"a\"\n[store]\nurl = \"\"\n[broker]\nurl = \"\"");
    assert_eq!(file().config().store.url, None);
    for empty in ["", " ", "\n"] {
        let config = file().variable("ECHOGEN_MODEL_BUNDLE", empty).variable("ECHOGEN_BROKER_URL", empty).config();
        assert_eq!((config.model.bundle.as_str(), config.is_embedded()), ("a", true));
    }
    let loaded = file().flag("model.bundle", "").read().unwrap();
    assert_eq!(loaded.config.model.bundle, "mini");
    let shown = loaded.shown().find(|shown| shown.name == "model.bundle").unwrap();
    assert_eq!(shown.to_string(), "model.bundle = \"mini\"  # flag --bundle");
}

#[test]
fn a_mistake_in_the_file_is_named_with_its_line_and_the_nearest_right_name() {
    let error = |text: &str| Given::file(text).error();
    assert_eq!(
        error("[broker]\nprefix = \"a\"\nulr = \"amqp://h\"\n"),
        "echogen.toml, line 3: there is no setting broker.ulr; did you mean broker.url?"
    );
    assert_eq!(
        error("[redis]\nurl = \"redis://h\"\n"),
        "echogen.toml, line 1: there is no setting redis; did you mean cache.url?"
    );
    assert_eq!(
        error("[sampler]\n\nmax_batch = \"many\""),
        "sampler.max_batch in echogen.toml, line 3 is \"many\"; write a whole number from 1 to 4096"
    );
    assert!(error("broker = 3").starts_with("broker in echogen.toml, line 1 is a section; write [broker]"));
    assert!(error("[broker.url]\na = 1").contains("broker.url in echogen.toml, line 1"));
    assert!(error("[broker]\nurl = amqp://me:hunter2@h").starts_with("echogen.toml, line 2: "));
    // All errors are reported at once.
    let all = error("[model]\nbundel = \"a\"\nthreads = 0\n[store]\nurl = 7");
    assert_eq!(all.split("; ").filter(|part| part.contains("line ")).count(), 3, "{all}");
}

#[test]
fn a_mistake_in_the_environment_or_a_flag_is_named_as_it_was_written() {
    assert_eq!(
        Given::default().variable("ECHOGEN_WORKER_GRACE_SECONDS", "soon").error(),
        "ECHOGEN_WORKER_GRACE_SECONDS is \"soon\"; write a number from 0 to 86400"
    );
    assert_eq!(Given::default().flag("model.dtype", "f8").error(), "--dtype is \"f8\"; write auto, f32, f16 or bf16");
    let device = Given::default().flag("model.device", "gpu").error();
    assert!(device.starts_with("--device cannot be used: ") && device.contains("cuda:1"), "{device}");
    let listen = Given::default().variable("ECHOGEN_TELEMETRY_LISTEN", "here").error();
    assert!(listen.starts_with("ECHOGEN_TELEMETRY_LISTEN cannot be used: \"here\" is no address"), "{listen}");
}

#[test]
fn an_unknown_variable_is_a_warning() {
    let given = Given::default()
        .variable("ECHOGEN_AMQP_URL", "amqp://h")
        .variable("ECHOGEN_TEST_RABBITMQ_SERVER", "x")
        .variable("ECHOGEN_OLD", "")
        .variable("PATH", "x");
    let loaded = given.read().unwrap();
    let expected = "the variable ECHOGEN_AMQP_URL is no setting; did you mean ECHOGEN_BROKER_URL?";
    assert_eq!(loaded.warnings, [expected]);
}

#[test]
fn the_variables_of_others_count_after_ours() {
    let endpoint = |given: Given| given.config().telemetry.otlp_endpoint;
    let theirs = || Given::default().variable("OTEL_EXPORTER_OTLP_ENDPOINT", "http://theirs:4318");
    assert_eq!(endpoint(theirs()).as_deref(), Some("http://theirs:4318"));
    let both = theirs().variable("ECHOGEN_TELEMETRY_OTLP_ENDPOINT", "http://ours:4318");
    assert_eq!(endpoint(both).as_deref(), Some("http://ours:4318"));
}

#[test]
fn the_file_is_the_named_one_and_must_be_readable_and_small() {
    let (_folder, path) = folder_of_secret("[model]\nbundle = \"a\"");
    let variables = vec![("ECHOGEN_CONFIG".into(), path.clone().into())];
    let loaded = Layers { variables, ..Layers::default() }.load().unwrap();
    assert_eq!((loaded.config.model.bundle.as_str(), loaded.warnings.len()), ("a", 0));
    let error = |path: PathBuf| Layers { file: Some(path), ..Layers::default() }.load().unwrap_err().to_string();
    assert!(error(path.with_file_name("absent")).starts_with("cannot read the configuration file"));
    std::fs::write(&path, "#".repeat(2 << 20)).unwrap();
    assert!(error(path).contains("has more than"));
}

#[test]
fn everything_in_force_is_shown_with_its_value_and_where_it_comes_from() {
    let given = Given::file("[job]\nguidance_text = [4, 3.5]\n[fetch]\nallowed_hosts = [\"a.example\", \"b.example\"]")
        .variable("ECHOGEN_FINDER_THRESHOLD", "0.25")
        .flag("worker.concurrency.encoder", "3");
    let loaded = given.read().unwrap();
    assert_eq!(loaded.shown().count(), settings().all.len());
    let shown = |name: &str| loaded.shown().find(|shown| shown.name == name).unwrap();
    assert_eq!(shown("job.guidance_text").value.unwrap(), "[4.0, 3.5]");
    assert!(shown("job.guidance_text").origin.to_string().ends_with("echogen.toml, line 2"));
    assert_eq!(shown("fetch.allowed_hosts").value.unwrap(), "[\"a.example\", \"b.example\"]");
    assert_eq!(
        shown("finder.threshold").to_string(),
        "finder.threshold = 0.25  # environment ECHOGEN_FINDER_THRESHOLD"
    );
    assert_eq!(
        shown("worker.concurrency.encoder").to_string(),
        "worker.concurrency.encoder = 3  # flag --worker-concurrency-encoder"
    );
    assert_eq!(shown("broker.prefix").to_string(), "broker.prefix = \"echogen\"  # default");
    assert_eq!(shown("broker.url").to_string(), "broker.url = (none)  # default");
}
