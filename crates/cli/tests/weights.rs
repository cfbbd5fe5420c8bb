//! Several real processes fetch one bundle into one folder, and are killed while they do.

#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[path = "../src/models_command/hub_twin.rs"]
mod hub_twin;

use hub_twin::{HubTwin, Served, sum};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NETWORKS: [&str; 5] = ["text_encoder", "dinov2", "flux_vae", "visual_tokenizer", "transformer"];
/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_mins(2);

fn content(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(100_000).collect()
}

/// Creates a folder with a bundle `tiny`, and a hub that has its files; `change` makes some of them misbehave.
fn bundle(change: impl Fn(&mut Served)) -> (TempDir, HubTwin) {
    let head = "name = 'tiny'\ndescription = 'for tests'\nlicence = 'MIT'\n[sampling]\nguidance_text = 2.5\n\
                guidance_subject = 2.5\ntemperature = 2.0\ntop_k = 900\ntop_p = 0.97\nseed = 42\npixel_budget = '0.06M'\n\
                height_to_width = 1.0\nsubject_resolution = { '0.06M' = 256 }\n";
    let networks = NETWORKS.map(|name| {
        let file = format!("{name}.safetensors");
        let sum = sum(&content(name));
        format!(
            "[{name}]\nweights = ['{file}']\n[[{name}.files]]\npath = '{file}'\nlicence = 'MIT'\n\
             repository = 'owner/{name}'\nsize = 100000\nsha256 = '{sum}'\n"
        )
    });
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tiny.toml"), format!("{head}{}", networks.concat())).unwrap();
    let served = NETWORKS.map(|name| {
        let route = format!("/owner/{name}/resolve/main/{name}.safetensors");
        let mut file = Served { route, content: content(name), ..Served::default() };
        change(&mut file);
        file
    });
    (folder, HubTwin::start(served.to_vec()))
}

/// `echogen models COMMAND` on the folder's bundle.
fn models(folder: &Path, hub: &HubTwin, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_echogen"));
    command.current_dir(folder).arg("models").args(&arguments[..1]).arg("./tiny.toml").args(&arguments[1..]);
    command.env("ECHOGEN_MODEL_HUB_ENDPOINT", &hub.endpoint).env("HF_HOME", folder.join("no-token"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null());
    command
}

fn start(folder: &Path, hub: &HubTwin, arguments: &[&str]) -> Child {
    models(folder, hub, arguments).spawn().unwrap()
}

fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn pulled(folder: &Path, name: &str) -> PathBuf {
    folder.join("tiny").join(format!("{name}.safetensors"))
}

/// The names in the folder of weights that are no files of the bundle.
fn leftovers(folder: &Path) -> Vec<String> {
    let names = folder.join("tiny").read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut left: Vec<_> = names.filter(|name| !name.ends_with(".safetensors")).collect();
    left.sort();
    left
}

/// Waits until `is_so`, which another process brings about.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a process says that it waits for another one.
fn wait_until_it_waits(child: &mut Child) {
    let mut said = String::new();
    let stderr = child.stderr.as_mut().unwrap();
    BufReader::new(stderr).read_line(&mut said).unwrap();
    assert!(said.starts_with("waiting: another process fetches files into"), "{said:?}");
}

#[test]
fn of_processes_that_race_each_file_is_fetched_by_one() {
    let (folder, hub) = bundle(|_| {});
    let children: Vec<_> = (0..6).map(|_| start(folder.path(), &hub, &["pull"])).collect();
    let texts: Vec<_> = children.into_iter().map(|child| succeeded(&child.wait_with_output().unwrap())).collect();
    for name in NETWORKS {
        assert_eq!(fs::read(pulled(folder.path(), name)).unwrap(), content(name));
    }
    assert_eq!(*hub.starts.lock().unwrap(), [0; 5], "each file was asked for once");
    let lines = |state: &str| texts.iter().flat_map(|text| text.lines()).filter(|line| line.starts_with(state)).count();
    assert_eq!((lines("pulled"), lines("present")), (5, 25), "{texts:?}");
    assert_eq!(leftovers(folder.path()), [".pull.lock"]);
}

/// Each process receives 20,000 bytes and is killed; the one that waited for it continues where it stopped.
#[test]
fn a_process_that_waits_continues_at_once_what_a_killed_one_began() {
    let (folder, hub) = bundle(|file| {
        if file.route.contains("dinov2") {
            file.stall_after = Some(20_000);
        }
    });
    let arguments = ["pull", "--network", "dinov2"];
    let mut holder = start(folder.path(), &hub, &arguments);
    let blobs = folder.path().join("tiny/.pull/dinov2.safetensors/models--owner--dinov2/blobs");
    let part = blobs.join(format!("{}.part", sum(&content("dinov2"))));
    for killed in 1..=4 {
        wait_until("the process receives", || fs::metadata(&part).is_ok_and(|file| file.len() == killed * 20_000));
        let mut next = start(folder.path(), &hub, &arguments);
        wait_until_it_waits(&mut next);
        holder.kill().unwrap();
        holder.wait().unwrap();
        holder = next;
    }
    succeeded(&holder.wait_with_output().unwrap());
    assert_eq!(fs::read(pulled(folder.path(), "dinov2")).unwrap(), content("dinov2"));
    assert_eq!(*hub.starts.lock().unwrap(), [0, 20_000, 40_000, 60_000, 80_000]);
    assert_eq!(leftovers(folder.path()), [".pull.lock"]);
}

#[test]
fn a_lock_that_somebody_deleted_is_no_lock() {
    let (folder, hub) = bundle(|file| {
        if file.route.contains("dinov2") {
            file.stall_after = Some(20_000);
        }
    });
    let mut holder = start(folder.path(), &hub, &["pull", "--network", "dinov2"]);
    let lock = folder.path().join("tiny/.pull.lock");
    wait_until("the process holds the lock", || !hub.starts.lock().unwrap().is_empty());
    let mut second = start(folder.path(), &hub, &["pull", "--network", "transformer"]);
    wait_until_it_waits(&mut second);
    fs::remove_file(&lock).unwrap();
    let third = start(folder.path(), &hub, &["pull", "--network", "flux_vae"]);
    succeeded(&third.wait_with_output().unwrap());
    holder.kill().unwrap();
    holder.wait().unwrap();
    // The second one has the lock of the file that was deleted, and takes that of the file that the third one made.
    succeeded(&second.wait_with_output().unwrap());
    assert!(lock.exists() && pulled(folder.path(), "transformer").exists());
}

/// Runs a command in a mount namespace in which the folder is read-only.
#[cfg(target_os = "linux")]
fn read_only(folder: &Path, command: &Command) -> Output {
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && cd \"$0\" && exec \"$@\"";
    let mut inside = Command::new("unshare");
    inside.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(folder);
    inside.arg(command.get_program()).args(command.get_args());
    inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    inside.output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn a_complete_folder_may_be_read_only() {
    let (folder, hub) = bundle(|_| {});
    succeeded(&models(folder.path(), &hub, &["pull"]).output().unwrap());
    let requests = hub.starts.lock().unwrap().len();
    fs::remove_file(folder.path().join("tiny/.pull.lock")).unwrap();
    for command in ["pull", "verify"] {
        let text = succeeded(&read_only(folder.path(), &models(folder.path(), &hub, &[command])));
        let right = text.lines().filter(|line| line.starts_with("present") || line.starts_with("right")).count();
        assert_eq!(right, 5, "{text}");
    }
    assert_eq!((hub.starts.lock().unwrap().len(), leftovers(folder.path())), (requests, Vec::new()));
    fs::remove_file(pulled(folder.path(), "dinov2")).unwrap();
    let refused = read_only(folder.path(), &models(folder.path(), &hub, &["pull"]));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("Read-only file system"), "{said}");
}
