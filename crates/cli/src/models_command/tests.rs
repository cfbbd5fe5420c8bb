//! Tests of the commands as a user calls them, with bundles and a hub created for the test.

use super::hub_twin::{HubTwin, Served, sum};
use super::*;
use clap::Parser;
use echogen_service::config::ModelConfig;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

#[derive(Parser)]
struct CommandLine {
    #[command(subcommand)]
    command: ModelsCommand,
}

const NETWORKS: [&str; 5] = ["text_encoder", "dinov2", "flux_vae", "visual_tokenizer", "transformer"];

/// Runs `echogen models ARGUMENTS`; returns its output and exit code, or its error.
fn run_line(arguments: &[&str], folders: &[PathBuf], json: bool) -> Result<(String, Exit), String> {
    run_on(arguments, folders, &ModelConfig::default(), json)
}

/// The same with settings for the hub.
fn run_on(arguments: &[&str], folders: &[PathBuf], config: &ModelConfig, json: bool) -> Result<(String, Exit), String> {
    let line = CommandLine::try_parse_from([&["models"], arguments].concat()).map_err(|error| error.to_string())?;
    let mut written = Vec::new();
    let mut output = Output { writer: &mut written, json };
    let config = ServiceConfig { model: config.clone(), ..ServiceConfig::default() };
    let exit = run_with(&line.command, folders, &config, &mut output).map_err(|error| format!("{error:#}"))?;
    Ok((String::from_utf8(written).unwrap(), exit))
}

/// Creates a folder with a bundle `tiny`. Each network has one file `NETWORK.safetensors`, and `lines` in its entry.
fn folder(lines: impl Fn(&str) -> String) -> (TempDir, [PathBuf; 1]) {
    let head = "name = 'tiny'\ndescription = 'for tests'\nlicence = 'MIT'\n[sampling]\nguidance_text = 2.5\n\
                guidance_subject = 2.5\ntemperature = 2.0\ntop_k = 900\ntop_p = 0.97\nseed = 42\npixel_budget = '0.06M'\n\
                height_to_width = 1.0\nsubject_resolution = { '0.06M' = 256 }\n";
    let networks = NETWORKS.map(|name| {
        let lines = lines(name);
        format!("[{name}]\nweights = ['{name}.safetensors']\n[[{name}.files]]\npath = '{name}.safetensors'\nlicence = 'MIT'\n{lines}\n")
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tiny.toml"), format!("{head}{}", networks.concat())).unwrap();
    let folders = [folder.path().to_owned()];
    (folder, folders)
}

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(100_000).collect()
}

fn served(name: &str) -> Served {
    Served {
        route: format!("/owner/{name}/resolve/main/{name}.safetensors"),
        content: content(name),
        ..Served::default()
    }
}

/// Creates a bundle on a fake hub; `change` makes some of its files misbehave.
fn on_hub(change: impl Fn(&mut Served)) -> (TempDir, [PathBuf; 1], HubTwin) {
    let mut files: Vec<_> = NETWORKS.iter().map(|name| served(name)).collect();
    files.iter_mut().for_each(change);
    let (folder, folders) = folder(|name| format!("repository = 'owner/{name}'\n"));
    (folder, folders, HubTwin::start(files))
}

fn pull(folders: &[PathBuf], hub: &HubTwin, more: &[&str]) -> Result<(String, Exit), String> {
    let (hub_endpoint, hub_token) = (Some(hub.endpoint.clone()), Some("t".into()));
    let config = ModelConfig { hub_endpoint, hub_token, ..ModelConfig::default() };
    run_on(&[&["pull", "tiny"], more].concat(), folders, &config, false)
}

fn pulled(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join("tiny").join(format!("{name}.safetensors"))
}

#[test]
fn pulls_everything_once_and_records_the_sums() {
    let (folder, folders, hub) = on_hub(|_| {});
    let (text, _) = pull(&folders, &hub, &[]).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("pulled")).count(), 5);
    for name in NETWORKS {
        assert_eq!(fs::read(pulled(&folder, name)).unwrap(), content(name));
    }
    assert!(!folder.path().join("tiny/.pull").exists());
    let requests = hub.starts.lock().unwrap().len();
    let (text, _) = pull(&folders, &hub, &[]).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("present")).count(), 5);
    assert_eq!(hub.starts.lock().unwrap().len(), requests, "nothing is fetched twice");
    let (text, exit) = run_line(&["verify", "tiny"], &folders, false).unwrap();
    assert!(text.contains("recorded when it was first pulled") && text.contains("all 5 files"), "{text}");
    assert_eq!(exit, Exit::Success);
}

#[test]
fn pulls_only_the_networks_asked_for() {
    let (folder, folders, hub) = on_hub(|_| {});
    pull(&folders, &hub, &["--network", "dinov2"]).unwrap();
    assert!(pulled(&folder, "dinov2").exists() && !pulled(&folder, "transformer").exists());
    assert!(pull(&folders, &hub, &["--network", "dino"]).unwrap_err().contains("must be one of text_encoder"));
    assert!(pull(&folders, &hub, &["--network", "namer"]).unwrap_err().contains("has no namer"));
}

#[test]
fn a_connection_that_breaks_off_is_resumed_where_it_stopped() {
    let (folder, folders, hub) = on_hub(|file| {
        if file.route.contains("dinov2") {
            file.cut_after = Some(30_000);
        }
    });
    pull(&folders, &hub, &["--network", "dinov2"]).unwrap();
    assert_eq!(fs::read(pulled(&folder, "dinov2")).unwrap(), content("dinov2"));
    assert_eq!(*hub.starts.lock().unwrap(), [0, 30_000, 60_000, 90_000]);
}

/// Leaves a partial download of `bytes`, as if an earlier run had been killed.
fn leave_part(folder: &TempDir, bytes: &[u8]) {
    let blobs = folder.path().join("tiny/.pull/dinov2.safetensors/models--owner--dinov2/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.part", sum(&content("dinov2")))), bytes).unwrap();
}

#[test]
fn a_later_run_goes_on_where_an_earlier_one_was_killed() {
    let (folder, folders, hub) = on_hub(|_| {});
    leave_part(&folder, &content("dinov2")[..70_000]);
    pull(&folders, &hub, &["--network", "dinov2"]).unwrap();
    assert_eq!(*hub.starts.lock().unwrap(), [70_000]);
    assert_eq!(fs::read(pulled(&folder, "dinov2")).unwrap(), content("dinov2"));
}

#[test]
fn a_part_that_is_whole_or_too_long_is_fetched_afresh() {
    for part in [content("dinov2"), vec![0; 200_000]] {
        let (folder, folders, hub) = on_hub(|_| {});
        leave_part(&folder, &part);
        pull(&folders, &hub, &["--network", "dinov2"]).unwrap();
        assert_eq!(fs::read(pulled(&folder, "dinov2")).unwrap(), content("dinov2"));
    }
}

#[test]
fn a_download_that_was_complete_when_its_process_was_killed_is_not_fetched_again() {
    let (folder, folders, hub) = on_hub(|_| {});
    leave_part(&folder, &content("dinov2"));
    let blobs = folder.path().join("tiny/.pull/dinov2.safetensors/models--owner--dinov2/blobs");
    let name = sum(&content("dinov2"));
    fs::rename(blobs.join(format!("{name}.part")), blobs.join(name)).unwrap();
    pull(&folders, &hub, &["--network", "dinov2"]).unwrap();
    assert_eq!(hub.starts.lock().unwrap().len(), 0);
    assert_eq!(fs::read(pulled(&folder, "dinov2")).unwrap(), content("dinov2"));
}

#[test]
fn a_damaged_download_is_refused_deleted_and_fetched_again() {
    let (folder, folders, hub) = on_hub(|_| {});
    leave_part(&folder, &[0; 70_000]);
    let error = pull(&folders, &hub, &["--network", "dinov2"]).unwrap_err();
    assert!(error.contains("dinov2.safetensors has SHA-256"), "{error}");
    assert!(!pulled(&folder, "dinov2").exists());
    pull(&folders, &hub, &["--network", "dinov2"]).unwrap();
    assert_eq!(fs::read(pulled(&folder, "dinov2")).unwrap(), content("dinov2"));
}

#[test]
fn the_published_sum_counts_even_where_the_hub_states_another() {
    let wrong = "f".repeat(64);
    let (folder, folders) = folder(|name| format!("repository = 'owner/{name}'\nsha256 = '{wrong}'"));
    let hub = HubTwin::start(vec![served("dinov2")]);
    let error = pull(&folders, &hub, &["--network", "dinov2"]).unwrap_err();
    assert!(error.contains(&format!("instead of {wrong}")), "{error}");
    assert!(!pulled(&folder, "dinov2").exists());
}

#[test]
fn a_wrong_file_in_place_is_replaced() {
    let right = |name: &str| format!("repository = 'owner/{name}'\nsize = 100000\nsha256 = '{}'", sum(&content(name)));
    let (folder, folders) = folder(right);
    fs::create_dir(folder.path().join("tiny")).unwrap();
    fs::write(pulled(&folder, "dinov2"), "wrong").unwrap();
    let hub = HubTwin::start(vec![served("dinov2")]);
    pull(&folders, &hub, &["--network", "dinov2"]).unwrap();
    assert_eq!(fs::read(pulled(&folder, "dinov2")).unwrap(), content("dinov2"));
}

#[test]
fn what_the_hub_lacks_is_said_with_what_to_do() {
    let (_folder, folders, _) = on_hub(|_| {});
    let hub = HubTwin::start(Vec::new());
    let error = pull(&folders, &hub, &[]).unwrap_err();
    assert!(error.contains("cannot fetch text_encoder.safetensors of owner/text_encoder at main"), "{error}");
    assert!(error.contains("HF_TOKEN") && error.contains("404"), "{error}");
}

#[test]
fn files_that_ship_with_a_bundle_are_not_looked_for_on_a_hub() {
    let (_folder, folders) = folder(|_| String::new());
    let hub = HubTwin::start(Vec::new());
    assert!(pull(&folders, &hub, &[]).unwrap_err().contains("ships with the bundle"));
}

#[test]
fn verify_reports_every_fault_and_exits_with_2() {
    let (folder, folders) = folder(|_| String::new());
    fs::create_dir(folder.path().join("tiny")).unwrap();
    fs::write(pulled(&folder, "dinov2"), "x").unwrap();
    let (text, exit) = run_line(&["verify", "tiny"], &folders, false).unwrap();
    assert_eq!(exit, Exit::Usage);
    assert_eq!(text.lines().filter(|line| line.starts_with("wrong  bundle tiny: ")).count(), 4);
    let (json, _) = run_line(&["verify", "tiny"], &folders, true).unwrap();
    let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().filter(|line| line["verdict"] == "wrong").count(), 4);
    assert_eq!(lines.iter().filter(|line| line["verdict"] == "right").count(), 1);
}

#[test]
fn list_tells_what_is_ready() {
    let (folder, folders) = folder(|_| String::new());
    fs::write(folder.path().join("bad.toml"), "name = 3").unwrap();
    let state = |name: &str| {
        let (json, _) = run_line(&["list"], &folders, true).unwrap();
        let lines = json.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.into_iter().find(|line| line["name"] == name).unwrap()["state"].as_str().unwrap().to_owned()
    };
    assert_eq!((state("tiny").as_str(), state("bad").as_str()), ("not pulled", "broken"));
    fs::create_dir(folder.path().join("tiny")).unwrap();
    for (count, name) in NETWORKS.iter().enumerate() {
        fs::write(pulled(&folder, name), "x").unwrap();
        assert_eq!(state("tiny"), if count == 4 { "ready" } else { "incomplete" });
    }
    let (text, _) = run_line(&["list"], &folders, false).unwrap();
    assert!(text.contains("tiny             ready              5 B  for tests"), "{text}");
    assert!(run_line(&["list"], &[], false).unwrap_err().contains("--bundles"));
}

#[test]
fn show_prints_all_that_the_manifest_says() {
    let bundles = [Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles")];
    let (text, _) = run_line(&["show", "mini"], &bundles, false).unwrap();
    for expected in ["guidance 4 by text", "transformer (complete", "0.004M (subject 64 px)", "sha256 "] {
        assert!(text.contains(expected), "{text} lacks {expected}");
    }
    let (text, _) = run_line(&["show", "echogen-2b"], &bundles, false).unwrap();
    assert!(
        text.contains("namer (absent, optional") && text.contains("from UmiSonoda16/EchoGen/echogen_2b.pth at main")
    );
    let (json, _) = run_line(&["show", "mini"], &bundles, true).unwrap();
    let shown: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(shown["manifest"]["sampling"]["top_k"], 900);
    assert_eq!(shown["presence"]["dinov2"], "complete");
}

#[test]
fn plan_shows_what_fits_on_a_described_device_and_says_what_does_not() {
    let bundles = [Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles")];
    let (text, exit) = run_line(&["plan", "echogen-2b", "--memory", "141GB"], &bundles, false).unwrap();
    for expected in
        ["on a GPU in bf16", "- weights of the transformer", "the files are not here", "1024 x 1024", "max_kv_bytes"]
    {
        assert!(text.contains(expected), "{text} lacks {expected}");
    }
    assert_eq!(exit, Exit::Success);
    let (json, exit) = run_line(&["plan", "echogen-2b", "--memory", "24GB"], &bundles, true).unwrap();
    let plan: serde_json::Value = serde_json::from_str(&json).unwrap();
    let pictures = |budget: usize| plan["budgets"][budget]["pictures"].as_u64().unwrap();
    assert!(pictures(0) > 1 && pictures(3) == 0, "{json}");
    assert_eq!((exit, &plan["scores"]), (Exit::JobFailed, &"none".into()), "1M is its default");
    let (nothing, exit) = run_line(&["plan", "echogen-2b", "--memory", "8GiB"], &bundles, false).unwrap();
    assert_eq!((nothing.as_str(), exit), ("", Exit::JobFailed));
    let (text, exit) = run_line(&["plan", "mini"], &bundles, false).unwrap();
    assert!(text.contains("on a CPU in f32") && exit == Exit::Success, "{text}");
    assert!(run_line(&["plan", "mini", "--memory", "much"], &bundles, false).unwrap_err().contains("such as 24GiB"));
}

#[test]
fn an_unknown_bundle_is_an_error_with_the_known_names() {
    let (_folder, folders) = folder(|_| String::new());
    let error = run_line(&["show", "tinny"], &folders, false).unwrap_err();
    assert_eq!(error, "no bundle is called \"tinny\"; there are tiny");
}

#[test]
fn convert_writes_a_bundle_with_reduced_weights() {
    let bundles = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles");
    let folder = tempfile::tempdir().unwrap();
    for (dtype, most) in [("bf16", 22_600_000), ("q8_0", 19_500_000)] {
        let target = folder.path().join(format!("mini-{dtype}"));
        let line = ["convert", "mini", target.to_str().unwrap(), "--dtype", dtype];
        let (json, _) = run_line(&line, std::slice::from_ref(&bundles), true).unwrap();
        let bytes = serde_json::from_str::<serde_json::Value>(&json).unwrap()["bytes"].as_u64().unwrap();
        assert!(bytes < most, "{dtype}: {bytes}");
        let (text, _) = run_line(&["verify", target.to_str().unwrap()], &[], false).unwrap();
        assert!(text.contains("transformer.safetensors"), "{text}");
        let (text, _) = run_line(&["show", target.to_str().unwrap()], &[], false).unwrap();
        assert!(text.contains(&format!("mini-{dtype}: ")) && text.contains(&format!("Weights in {dtype}.")), "{text}");
        assert!(run_line(&line, std::slice::from_ref(&bundles), false).unwrap_err().contains("--force"));
        run_line(&[&line[..], &["--force"]].concat(), std::slice::from_ref(&bundles), false).unwrap();
    }
    let wrong = ["convert", "mini.safetensors", "out.safetensors", "--dtype", "q8_0"];
    assert!(run_line(&wrong, &[], false).unwrap_err().contains("convert the bundle"));
    let wrong = ["convert", "mini", "out", "--prefix", "vae"];
    assert!(run_line(&wrong, std::slice::from_ref(&bundles), false).unwrap_err().contains("--prefix"));
}

#[test]
fn convert_rewrites_and_asks_before_overwriting() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../checkpoint/tests/data/nested.pth");
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.safetensors");
    let (data, target) = (data.to_str().unwrap(), target.to_str().unwrap());
    let line = ["convert", data, target, "--prefix", "trainer.gpt_fsdp", "--dtype", "f16"];
    let (text, _) = run_line(&line, &[], false).unwrap();
    assert!(text.contains("2 tensors"), "{text}");
    assert!(run_line(&line, &[], false).unwrap_err().contains("--force"));
    let (json, _) = run_line(&[&line[..], &["--force"]].concat(), &[], true).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["tensors"], 2);
    assert!(run_line(&["convert", "no.pth", target], &[], false).unwrap_err().contains("cannot open no.pth"));
}
