//! No command prints a secret, whatever goes wrong.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use echogen_service::config::settings;

/// A part of every planted secret. It is valid base64.
const PLANTED: &str = "pL4ntEdpL4ntEdpL4ntEdpL4ntEdpL4n";

/// A valid value of a secret setting, which contains the planted text. No server is at the addresses.
fn secret(name: &str) -> String {
    match name {
        "broker.url" => format!("amqp://me:{PLANTED}@127.0.0.1:1/%2f"),
        "cache.url" => format!("redis://me:{PLANTED}@127.0.0.1:1"),
        "callbacks.secret" | "safety.secret" => format!("whsec_{PLANTED}"),
        _ => PLANTED.to_owned(),
    }
}

fn variables() -> Vec<(String, String)> {
    let secrets = settings().all.iter().filter(|setting| setting.is_secret());
    let mut variables: Vec<_> = secrets.map(|setting| (setting.variable(), secret(&setting.name()))).collect();
    let others = [
        ("ECHOGEN_STORE_ACCESS_KEY_ID", "me"),
        ("ECHOGEN_STORE_URL", "s3://bucket"),
        ("ECHOGEN_STORE_ENDPOINT", "http://127.0.0.1:1"),
        ("ECHOGEN_MODEL_HUB_ENDPOINT", "http://127.0.0.1:1"),
        ("ECHOGEN_TELEMETRY_LOG", "debug"),
        ("ECHOGEN_TELEMETRY_OTLP_ENDPOINT", "http://127.0.0.1:1"),
        ("ECHOGEN_BROKER_CONNECT_TIMEOUT_SECONDS", "2"),
    ];
    variables.extend(others.map(|(name, value)| (name.to_owned(), value.to_owned())));
    variables
}

fn run(folder: &Path, arguments: &[&str], variables: &[(String, String)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echogen"));
    command.args(arguments).current_dir(folder).env_clear();
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.output().expect("the program starts")
}

/// Runs a command and returns what it prints, which must not contain the planted text.
#[track_caller]
fn printed(folder: &Path, arguments: &[&str], variables: &[(String, String)]) -> String {
    let Output { stdout, stderr, .. } = run(folder, arguments, variables);
    let printed = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    let is_shown = printed.contains("pL4nt") || printed.contains("ntEdpL");
    assert!(!is_shown, "{arguments:?} prints a secret: {printed}");
    assert!(!printed.is_empty(), "{arguments:?} prints nothing");
    printed
}

#[test]
fn the_configuration_is_shown_and_checked_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let variables = variables();
    for arguments in [&["config", "show"][..], &["config", "show", "--json"], &["config", "check"]] {
        let printed = printed(folder.path(), arguments, &variables);
        assert!(!printed.contains("error"), "{printed}");
    }
    let secrets = settings().all.iter().filter(|setting| setting.is_secret());
    let lines: Vec<String> = secrets.map(|s| format!("{} = {:?}", s.name(), secret(&s.name()))).collect();
    let file = folder.path().join("echogen.toml");
    std::fs::write(&file, lines.join("\n") + "\nstore.access_key_id = \"me\"\n").unwrap();
    assert!(printed(folder.path(), &["config", "show"], &[]).contains("echogen.toml, line"));
    for line in &lines {
        // Without its last quotation mark, the line is no TOML.
        std::fs::write(&file, line.trim_end_matches('"')).unwrap();
        assert!(printed(folder.path(), &["config", "check"], &[]).contains("error"));
        std::fs::write(&file, line.replace(" = \"", " = [\"") + "]").unwrap();
        printed(folder.path(), &["config", "check"], &[]);
    }
}

#[test]
fn a_wrong_command_line_is_explained_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    for setting in settings().all.iter().filter(|setting| setting.is_secret()) {
        let (flag, secret) = (setting.flag(), secret(&setting.name()));
        let (flag, mistyped) = (format!("--{flag}"), format!("--{}", flag.replacen('-', "-x", 1)));
        for command in ["up", "submit", "status", "dead-letters", "models", "config"] {
            printed(folder.path(), &[command, &flag, &secret], &[]);
            printed(folder.path(), &[command, &mistyped, &secret], &[]);
            printed(folder.path(), &[command, &format!("{mistyped}={secret}")], &[]);
            printed(folder.path(), &[command, &flag, "x", &secret], &[]);
            printed(folder.path(), &[command, &flag, &format!("{secret} {secret}")], &[]);
        }
    }
    let address = secret("broker.url");
    for arguments in [&["submit", &address][..], &["config", "show", &address], &[&address], &["topology", &address]] {
        printed(folder.path(), arguments, &[]);
    }
}

#[test]
fn an_address_with_a_password_is_refused_or_hidden() {
    let folder = tempfile::tempdir().unwrap();
    let address = |scheme: &str| format!("{scheme}://me:{PLANTED}@127.0.0.1:1/x");
    for setting in &settings().all {
        for scheme in ["https", "amqp", "s3", "redis"] {
            let variables = [(setting.variable(), address(scheme))];
            printed(folder.path(), &["config", "show"], &variables);
        }
    }
}

/// A role waits for its servers, and says so.
#[test]
fn a_role_waits_for_servers_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_echogen"));
    command.args(["dispatcher", "--listen", "none"]).current_dir(folder.path()).env_clear().envs(variables());
    command.env("XDG_CACHE_HOME", folder.path()).stdin(Stdio::null()).stderr(Stdio::piped());
    let mut role = command.spawn().unwrap();
    let mut printed = String::new();
    for line in BufReader::new(role.stderr.take().unwrap()).lines().map_while(Result::ok) {
        printed += &line;
        // The cache, both stores and the broker.
        if ["cache", "result store", "work store", "broker"]
            .iter()
            .all(|name| printed.contains(&format!("=\"{name}\"")))
        {
            break;
        }
    }
    role.kill().unwrap();
    role.wait().unwrap();
    assert!(printed.contains("Connection refused"), "{printed}");
    assert!(!printed.contains("pL4nt") && !printed.contains("ntEdpL"), "{printed}");
}

#[test]
fn a_server_that_cannot_be_reached_is_reported_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let variables = variables();
    std::fs::write(folder.path().join("jobs.jsonl"), "{}\n").unwrap();
    let commands: [&[&str]; 11] = [
        &["status", "job"],
        &["status", "job", "--watch"],
        &["cancel", "job"],
        &["submit", "--subject", "data:,x", "--prompt", "a dog", "--wait"],
        &["submit", "--batch", "jobs.jsonl"],
        &["dead-letters", "list"],
        &["dead-letters", "redrive", "--all", "--json"],
        &["dead-letters", "drop", "job"],
        &["topology", "--declare"],
        &["canary", "--limit", "1"],
        &["models", "pull", "none"],
    ];
    for command in commands {
        let printed = printed(folder.path(), command, &variables);
        assert!(printed.contains("error"), "{command:?}: {printed}");
    }
}
