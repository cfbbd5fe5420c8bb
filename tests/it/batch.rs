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
    assert_eq!(run.stdout, "out/contact-sheet.png\nout/results.csv\n");
    let ending: Vec<&str> = run.stderr.lines().rev().take(3).collect();
    assert!(ending[0].starts_with("2 done") && ending[1].starts_with("failed line 4: "), "{ending:?}");
    assert!(ending[2].starts_with("failed line 2: "), "failures are repeated below all others: {ending:?}");

    let encoded = |id: &str| folder.json(&format!("out/{id}/result.json"))["cached"]["encoder"] == false;
    assert_ne!(encoded("one"), encoded("three"), "one of the two encoded the subject, and the other did not");
    assert_eq!(folder.json("out/four/result.json")["status"], "failed");

    let again = folder.run(&["batch", "jobs.jsonl", "--json"]).expect(1);
    let summary: serde_json::Value = serde_json::from_str(again.stdout.lines().last().expect("lines")).expect("JSON");
    assert_eq!((&summary["done"], &summary["failed"], &summary["cached"]), (&0.into(), &2.into(), &2.into()));
}

#[test]
fn every_picture_of_a_folder_meets_every_prompt_of_a_file() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("subjects")).expect("a folder can be made");
    for name in ["mug.png", "robot.png"] {
        std::fs::copy(subject(name), folder.path("subjects").join(name)).expect("a picture can be copied");
    }
    folder.write("scenes.txt", "a {name} on the moon\n\na {name} in a library\n");
    let crossed = ["batch", "--subjects", "subjects", "--prompts", "scenes.txt"];
    let run = folder.run(&[&crossed[..], &["--count", "2"]].concat()).expect(0);
    assert!(run.stderr.contains("4 done, 0 failed, 0 cached"), "{}", run.stderr);
    let table = String::from_utf8(folder.read("out/results.csv")).expect("UTF-8");
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|row| row.split(',').collect()).collect();
    assert_eq!(rows.len(), 8, "{table}");
    assert_eq!(
        (rows[0][4], rows[0][5], rows[7][4], rows[7][5]),
        ("mug", "a mug on the moon", "robot", "a robot in a library",)
    );
    assert!(rows.iter().all(|row| folder.path("out").join(row[7]).is_file()), "{table}");

    let printed = folder.run(&[&crossed[..], &["--count", "2", "--print-jobs"]].concat()).expect(0);
    folder.write("jobs.jsonl", printed.stdout);
    let again = folder.run(&["batch", "jobs.jsonl"]).expect(0);
    assert!(again.stderr.contains("0 done, 0 failed, 4 cached"), "the same jobs: {}", again.stderr);
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
