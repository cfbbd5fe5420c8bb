//! Tests of the flags as arguments of a command line.

use clap::Command;

use super::*;

fn command() -> Command {
    let serve = Command::new("serve").args(flags(&["broker", "callbacks", "job", "telemetry.listen"]));
    Command::new("echogen").bin_name("echogen").subcommand(serve).subcommand(Command::new("other"))
}

fn parse(arguments: &[&str]) -> Result<Loaded, String> {
    let arguments: Vec<OsString> = ["echogen"].iter().chain(arguments).map(OsString::from).collect();
    let matches = command().try_get_matches_from(&arguments);
    let matches = matches.map_err(|error| one_line(&error, &command(), &arguments))?;
    let flags = given(matches.subcommand().unwrap().1);
    Layers { flags, ..Layers::default() }.load().map_err(|error| error.to_string())
}

#[test]
fn the_arguments_are_consistent_for_all_settings_together() {
    let all = settings().names_of_sections();
    Command::new("all").args(flags(&all)).debug_assert();
    assert!(flags(&all).len() > settings().all.len(), "secrets have two");
    command().debug_assert();
}

#[test]
fn flags_are_read_as_settings() {
    let config = parse(&["serve", "--broker-prefix=a", "--seed", "7", "--listen", "none", "--guidance-text", "1,2"]);
    let config = config.unwrap().config;
    assert_eq!((config.broker.prefix.as_str(), config.job.seeds.as_slice()), ("a", &[7][..]));
    assert_eq!(config.telemetry.listen, Some(Listen::Nowhere));
    let hosts = ["--callbacks-allowed-hosts", "a,b", "--callbacks-allowed-hosts", "c"];
    let config = parse(&[&["serve"], &hosts[..]].concat()).unwrap().config;
    assert_eq!(config.callbacks.allowed_hosts, ["a", "b", "c"]);
    let (_folder, path) = folder_of_secret("amqp://me:hunter2@h\n");
    let config = parse(&["serve", "--broker-url-file", path.to_str().unwrap()]).unwrap().config;
    assert_eq!(config.broker.url.unwrap().expose(), "amqp://me:hunter2@h");
}

#[test]
fn a_wrong_flag_leads_to_the_right_one() {
    let error = |arguments: &[&str]| parse(arguments).unwrap_err();
    assert_eq!(
        error(&["serve", "--amqp-url", "amqp://h"]),
        "`echogen serve` has no flag --amqp-url; did you mean --broker-url?; see `echogen serve --help`"
    );
    assert_eq!(
        error(&["serve", "--store-url", "s3://b"]),
        "`echogen serve` does not use store.url and has no flag --store-url; see `echogen serve --help`"
    );
    assert_eq!(
        error(&["serve", "--callbacks-timeout-seconds", "soon"]),
        "--callbacks-timeout-seconds is \"soon\"; write a number above 0, at most 86400"
    );
    assert!(error(&["serve", "--guidance-text", "-1,2"]).starts_with("--guidance-text is -1; "));
    assert!(error(&["serve", "what"]).starts_with("unexpected argument 'what' found"));
}

#[test]
fn the_parser_never_shows_a_secret() {
    for arguments in [
        &["serve", "--callbacks-secret", "hunter2"][..],
        &["serve", "--callbacks-secret", "whsec_hunter2"],
        &["serve", "--callbacks-secret=whsec_a,", "hunter2"],
        &["serve", "--callbacks-secre", "hunter2"],
        &["serve", "--callbacks-secre=hunter2"],
        &["serve", "--callback-secret=whsec_hunter2"],
        &["serve", "--broker-url", "hunter2"],
        &["serve", "--broker-url", "http://me:hunter2@h"],
        &["serve", "--broker-url", "amqp://h", "--broker-url", "amqp://hunter2@h"],
        &["serve", "--broker-url", "amqp://h", "hunter2"],
        &["other", "--broker-url", "hunter2"],
        &["--broker-url", "hunter2", "serve"],
        &["serve", "--cache-url=hunter2"],
    ] {
        let error = parse(arguments).unwrap_err();
        assert!(!error.contains("hunter2"), "{arguments:?}: {error}");
    }
}

#[test]
fn the_help_has_headings_defaults_and_no_flag_of_another_section() {
    let mut command = command().find_subcommand("serve").unwrap().clone().term_width(100);
    let help = command.render_long_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "Broker:",
        "Callbacks:",
        "[default: echogen]",
        "[or --broker-url-file FILE]",
        "Address of RabbitMQ",
        "--listen",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(!help.contains("--store-url") && !help.contains("--log-format"), "{help}");
}
