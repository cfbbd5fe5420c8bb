//! `echogen doctor` and the acceptance script as they are run on a machine with a GPU, here on the CPU.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Runs a program with an environment and a working directory that do not influence it.
fn run(program: impl AsRef<Path>, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ECHOGEN_")) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments).output().unwrap()
}

fn doctor(folder: &Path, arguments: &[&str]) -> Output {
    let bundles = repository("bundles");
    let common = ["doctor", "--bundles", bundles.to_str().unwrap(), "--log", "error"];
    run(env!("CARGO_BIN_EXE_echogen"), folder, &[&common[..], arguments].concat())
}

#[test]
fn a_fit_machine_passes_and_the_report_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let output = doctor(folder.path(), &["--device", "cpu", "--size", "tiny", "--report", "report.md", "--json"]);
    let (text, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(0), "{text}{log}");
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["passed"], true);
    let titles: Vec<_> =
        report["sections"].as_array().unwrap().iter().map(|section| section["title"].as_str()).collect();
    let expected = [
        "Device",
        "Rates",
        "Numbers of the mini bundle",
        "Seconds of pictures of drawn weights, size tiny in f32",
        "Seconds of each scale",
        "Memory",
    ];
    assert_eq!(titles, expected.map(Some));
    let written = fs::read_to_string(folder.path().join("report.md")).unwrap();
    assert!(written.starts_with("# echogen doctor ") && written.contains("checks passed"), "{written}");
    assert!(log.contains("examining rates"), "{log}");
}

#[test]
fn a_missing_gpu_is_a_failed_check_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let output = doctor(folder.path(), &["--device", "cuda:77"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("1 of 1 checks failed.") && text.contains("nvidia-smi"), "{text}");
    let output = doctor(folder.path(), &["--size", "7b"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("give tiny, 125m or 2b"));
}

#[test]
fn a_bundle_that_is_named_makes_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("small");
    let bundles = repository("bundles");
    let line = [
        "models",
        "convert",
        "mini",
        bundle.to_str().unwrap(),
        "--dtype",
        "q8_0",
        "--bundles",
        bundles.to_str().unwrap(),
    ];
    let output = run(env!("CARGO_BIN_EXE_echogen"), folder.path(), &line);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output = doctor(folder.path(), &["--device", "cpu", "--bundle", bundle.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("| ok | the bundle makes a picture | 128 x 128 |"), "{text}");
}

#[test]
fn the_acceptance_folder_has_all_that_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("accept");
    let script = repository("deploy/cuda/accept.sh");
    let line = ["pack", packed.to_str().unwrap(), "--program", env!("CARGO_BIN_EXE_echogen")];
    let output = run(&script, folder.path(), &line);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // From another working directory, as over ssh.
    let output = run(packed.join("accept.sh"), folder.path(), &["--device", "cpu", "--sizes", "tiny"]);
    let report = fs::read_to_string(packed.join("report.md")).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}{}", String::from_utf8_lossy(&output.stderr));
    for expected in ["echogen-tiny in bf16", "numbers in f16", "## Rates", "checks passed"] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
    // Without a GPU the same command fails, and says so.
    let output = run(packed.join("accept.sh"), folder.path(), &["--device", "cuda:77", "--sizes", "tiny"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(fs::read_to_string(packed.join("report.md")).unwrap().contains("1 of 1 checks failed."));
    assert_eq!(run(packed.join("accept.sh"), folder.path(), &["--wrong"]).status.code(), Some(2));
}
