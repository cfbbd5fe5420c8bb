//! `echogen batch`: many jobs from a file, with the real networks.

use crate::program::{Folder, Run, subject};

fn line(id: &str, picture: &str, prompt: &str) -> String {
    let picture = serde_json::json!(subject(picture));
    format!("{{\"id\": {id:?}, \"subject\": {{\"image\": {picture}}}, \"prompt\": {prompt:?}}}\n")
}

#[test]
fn a_bad_line_is_reported_with_its_number_and_the_others_run() {
    let folder = Folder::new();
    let lines = [
        line("one", "mug.png", "a mug on a desk"),
        "{\"id\": \"two\", \"subjct\": {}}\n".to_owned(),
        line("three", "mug.png", "a mug in the snow"),
        line("four", "nowhere.png", "a mug nowhere"),
    ];
    folder.write("jobs.jsonl", lines.concat());
    let run = folder.run(&["batch", "jobs.jsonl"]).expect(1);
    assert!(run.stderr.contains("line 2: unknown field \"subjct\"; did you mean \"subject\"?"), "{}", run.stderr);
    assert!(run.stderr.contains("line 4: job four: "), "{}", run.stderr);
    assert!(run.stderr.contains("2 done, 2 failed, 0 cached"), "{}", run.stderr);
    assert_eq!(run.stdout, "out/contact-sheet.png\n");

    let encoded = |id: &str| folder.json(&format!("out/{id}/result.json"))["cached"]["encoder"] == false;
    assert_ne!(encoded("one"), encoded("three"), "one of the two encoded the subject, and the other did not");
    assert_eq!(folder.json("out/four/result.json")["status"], "failed");

    let again = folder.run(&["batch", "jobs.jsonl", "--json"]).expect(1);
    let summary: serde_json::Value = serde_json::from_str(again.stdout.lines().last().expect("lines")).expect("JSON");
    assert_eq!((&summary["done"], &summary["failed"], &summary["cached"]), (&0.into(), &2.into(), &2.into()));
}

#[test]
fn options_are_defaults_for_lines_that_do_not_say_themselves() {
    let folder = Folder::new();
    let own = line("own", "mug.png", "a mug").replace("\"prompt\"", "\"output\": {\"format\": \"png\"}, \"prompt\"");
    folder.write("jobs.jsonl", own + &line("default", "mug.png", "a mug on a shelf"));
    folder.run(&["batch", "jobs.jsonl", "--format", "webp"]).expect(0);
    assert!(folder.path("out/own/image-0.png").is_file());
    assert!(folder.path("out/default/image-0.webp").is_file());
}

#[test]
fn standard_input_is_a_jobs_file_too() {
    let folder = Folder::new();
    let jobs = folder.write("jobs.jsonl", line("one", "mug.png", "a mug on a desk"));
    let mut command = folder.command(&["batch", "-"]);
    command.stdin(std::fs::File::open(jobs).expect("the file was written"));
    let run = Run::of(command).expect(0);
    assert!(run.stderr.contains("1 done, 0 failed, 0 cached"), "{}", run.stderr);
}

#[test]
fn a_callback_that_nobody_would_call_is_an_error() {
    let folder = Folder::new();
    let callback = "\"callback\": \"https://client.example/done\", \"prompt\"";
    folder.write("jobs.jsonl", line("one", "mug.png", "a mug").replace("\"prompt\"", callback));
    let run = folder.run(&["batch", "jobs.jsonl"]).expect(1);
    assert!(run.stderr.contains("callback: is called only for jobs that go through RabbitMQ"), "{}", run.stderr);
}

/// A limit on the file size: writing more than 4 blocks of 512 bytes fails, as on a full disk.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up_fails_jobs_with_the_place_and_leaves_no_half_result() {
    let folder = Folder::new();
    folder.write("jobs.jsonl", line("one", "mug.png", "a mug on a desk"));
    let program = folder.command(&[]);
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 4; exec \"$0\" batch jobs.jsonl --attempts 1"]);
    command
        .arg(program.get_program())
        .current_dir(folder.path(""))
        .env("ECHOGEN_MODEL_BUNDLES", crate::program::repository("bundles"));
    let run = Run::of(command).expect(1);
    assert!(run.stderr.contains("line 1: job one: ") && run.stderr.contains("cannot write"), "{}", run.stderr);
    assert!(!folder.path("out/one/result.json").exists());
    assert!(!folder.path("out/one/image-0.png").exists());
}
