//! `echogen demo`, as somebody starts it who has nothing but the program.

use std::{io::BufRead, time::Duration};

use rustix::process::Signal;

use crate::{
    gateway::api::Api,
    program::{Folder, Run, Running, repository, subject},
};

/// Timeout of every wait: networks are loaded, and pictures made on whatever processor there is.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_makes_pictures_with_nothing_but_the_program() {
    let folder = Folder::new();
    let mut command = folder.command(&["demo", "--gateway", "127.0.0.1:0", "--every", "0.1", "--jobs", "3"]);
    // No bundle is installed: the program brings its own.
    command.env_remove("ECHOGEN_MODEL_BUNDLES").env("XDG_CACHE_HOME", folder.path("cache"));
    let (mut demo, output) = Running::start_and_read(command);
    let mut lines = output.lines().map(|line| line.expect("it writes UTF-8"));
    let mut told = |word: &str| {
        let line = lines.next().unwrap_or_default();
        line.strip_prefix(word).unwrap_or_else(|| panic!("{line:?} is no {word:?}")).to_owned()
    };
    let address = told("console http://").trim_end_matches('/').parse().expect("an address");
    let api = Api { address, key: told("key ") };

    let completed = async {
        loop {
            let jobs = api.get("/v1/jobs?status=completed").await.expect(200).json();
            if let Some(job) = jobs["data"].get(0) {
                return job.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let job = tokio::time::timeout(LIMIT, completed).await.expect("an example job completes");
    assert_eq!(job["images"].as_array().map(Vec::len), Some(4), "{job}");
    let id = job["id"].as_str().expect("an id");
    let picture = api.get(&format!("/v1/jobs/{id}/images/0?redirect=false")).await.expect(200);
    assert!(picture.header("content-type").starts_with("image/"), "{picture:?}");
    let page = api.get("/console/").await.expect(200);
    assert!(String::from_utf8_lossy(&page.body).contains("<!doctype html>"), "the console is served");

    demo.signal(Signal::INT);
    assert_eq!(demo.end(LIMIT), Some(0), "as other roles end");
    assert!(folder.path("echogen-demo").is_dir(), "what it made is where it says");
}

#[test]
fn outside_a_clone_the_bundle_is_the_programs_own() {
    let folder = Folder::new();
    let run = |arguments: &[&str]| {
        let mut command = folder.command(arguments);
        command.env_remove("ECHOGEN_MODEL_BUNDLES").env("XDG_CACHE_HOME", folder.path("cache"));
        Run::of(command)
    };
    let mug = subject("mug.png");
    run(&["generate", "-s", &mug, "--name", "mug", "-p", "a mug on a beach", "--id", "mug"]).expect(0);
    assert!(folder.path("out/mug/image-0.png").is_file());
    let listed = run(&["models", "list"]).expect(0);
    assert!(listed.stdout.starts_with("mini") && listed.stdout.contains("ready"), "{}", listed.stdout);
    run(&["models", "verify", "mini"]).expect(0);
    // A folder of bundles that is named, or one that is there, is not hidden by it.
    std::fs::create_dir(folder.path("bundles")).expect("a folder can be made");
    std::fs::copy(repository("bundles/echogen-2b.toml"), folder.path("bundles/echogen-2b.toml")).expect("a copy");
    let listed = run(&["models", "list"]).expect(0);
    assert!(listed.stdout.starts_with("echogen-2b"), "{}", listed.stdout);
}
