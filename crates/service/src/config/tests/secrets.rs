//! Tests that secrets are never printed, and may be given as files.

use super::*;

const SECRET: &str = "amqp://me:hunter2@host";

/// The broker's address as a file, in each layer.
fn by_file(path: &str) -> [Given; 3] {
    let mut flag = Given::default();
    flag.flags.push(("broker.url", Form::File, path.to_owned()));
    [
        Given::file(&format!("[broker]\nurl_file = {path:?}")),
        Given::default().variable("ECHOGEN_BROKER_URL_FILE", path),
        flag,
    ]
}

#[test]
fn a_secret_is_read_from_a_file_and_trimmed() {
    let (_folder, path) = folder_of_secret(&format!("{SECRET}\n"));
    for given in by_file(path.to_str().unwrap()) {
        assert_eq!(given.config().broker.url.unwrap().expose(), SECRET);
    }
    let direct = Given::default().variable("ECHOGEN_BROKER_URL", &format!(" {SECRET}\r\n"));
    assert_eq!(direct.config().broker.url.unwrap().expose(), SECRET);
}

#[test]
fn a_secret_is_shown_as_set_with_where_it_comes_from() {
    let (_folder, path) = folder_of_secret(SECRET);
    let path = path.to_str().unwrap();
    let shown = by_file(path).map(|given| {
        let loaded = given.read().unwrap();
        assert!(!format!("{loaded:?} {:?}", loaded.config).contains("hunter2"));
        loaded.shown().find(|shown| shown.name == "broker.url").unwrap().to_string()
    });
    assert!(shown[0].starts_with("broker.url = (set)  # file ") && shown[0].ends_with(", line 2"));
    assert_eq!(shown[1], "broker.url = (set)  # environment ECHOGEN_BROKER_URL_FILE");
    assert_eq!(shown[2], "broker.url = (set)  # flag --broker-url-file");
}

#[test]
fn a_higher_layer_counts_whichever_form_it_has() {
    let (_folder, path) = folder_of_secret(SECRET);
    let path = path.to_str().unwrap();
    let host = |given: Given| given.config().broker.url.unwrap().expose().to_owned();
    let file = || Given::file("broker.url = \"amqp://low\"");
    assert_eq!(host(file().variable("ECHOGEN_BROKER_URL_FILE", path)), SECRET);
    // A file in a layer that does not take effect need not exist.
    let absent = || Given::default().variable("ECHOGEN_BROKER_URL_FILE", "/nowhere/at/all");
    assert_eq!(host(absent().flag("broker.url", "amqp://high")), "amqp://high");
}

#[test]
fn both_forms_in_one_layer_are_refused() {
    let error = Given::file("broker.url = \"amqp://hunter2\"\nbroker.url_file = \"/run/x\"").error();
    assert!(error.contains("are both given") && error.contains("broker.url_file in echogen.toml, line 2"), "{error}");
    let error =
        Given::default().variable("ECHOGEN_BROKER_URL", SECRET).variable("ECHOGEN_BROKER_URL_FILE", "/x").error();
    assert_eq!(error, "ECHOGEN_BROKER_URL and ECHOGEN_BROKER_URL_FILE are both given; keep one of them");
}

#[test]
fn a_file_that_is_absent_or_empty_is_named_with_its_setting() {
    let [file, variable, flag] = by_file("/nowhere/at/all");
    assert!(
        file.error().starts_with("broker.url_file in echogen.toml, line 2 names /nowhere/at/all, which cannot be read")
    );
    assert!(variable.error().starts_with("ECHOGEN_BROKER_URL_FILE names /nowhere/at/all, which cannot be read"));
    assert!(flag.error().starts_with("--broker-url-file names /nowhere/at/all, which cannot be read"));
    let (_folder, path) = folder_of_secret(" \n");
    let [_, variable, _] = by_file(path.to_str().unwrap());
    assert!(variable.error().ends_with("which is empty"));
}

#[test]
fn a_wrong_secret_is_never_shown() {
    let wrong = [
        Given::file("[callbacks]\nsecret = \"whsec_hunter2\""),
        Given::file("[callbacks]\nsecret = [\"whsec_hunter2\"]"),
        Given::default().variable("ECHOGEN_CALLBACKS_SECRET", "whsec_hunter2"),
        Given::default().flag("callbacks.secret", "whsec_hunter2"),
        Given::file("[broker]\nurl = { hunter2 = 1 }"),
        Given::file("[broker]\nurl = \"amqp://hunter2"),
        Given::file("[broker]\nurl = amqp://hunter2"),
        Given::file("[broker]\nurl = hunter2"),
        Given::default().variable("ECHOGEN_CACHE_URL", "hunter2"),
    ];
    for given in wrong {
        let error = given.error();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let (_folder, path) = folder_of_secret("whsec_hunter2");
    let error = Given::default().variable("ECHOGEN_CALLBACKS_SECRET_FILE", path.to_str().unwrap()).error();
    assert!(error.starts_with("ECHOGEN_CALLBACKS_SECRET_FILE") && !error.contains("hunter2"), "{error}");
}

#[test]
fn an_address_without_a_place_for_a_password_is_refused_with_one() {
    for name in ["telemetry.otlp_endpoint", "model.hub_endpoint", "store.endpoint", "job.callback", "store.url"] {
        let scheme = if name == "store.url" { "s3" } else { "https" };
        let error = Given::default().flag(name, &format!("{scheme}://me:hunter2@host")).error();
        assert!(error.contains("password") && !error.contains("hunter2"), "{name}: {error}");
    }
}
