//! `echogen generate`: one picture, from the command line to the file.

use echogen_imaging::{ImageLimits, decode_image};

use crate::program::{Folder, subject};

fn size(bytes: &[u8]) -> (u32, u32) {
    decode_image(bytes, &ImageLimits::default()).expect("the result is a picture").dimensions()
}

#[test]
fn a_subject_and_a_sentence_give_pictures_a_result_and_a_contact_sheet() {
    let folder = Folder::new();
    let mug = subject("mug.png");
    let arguments = ["generate", "-s", &mug, "-p", "a mug on a desk", "--id", "mug", "--seeds", "7,8", "--name", "mug"];
    let run = folder.run(&arguments).expect(0);
    assert_eq!(run.stdout, "out/mug/image-0.png\nout/mug/image-1.png\nout/mug/contact-sheet.png\n");
    assert_eq!(size(&folder.read("out/mug/image-0.png")), (128, 128));
    assert_ne!(folder.read("out/mug/image-0.png"), folder.read("out/mug/image-1.png"), "seeds differ, pictures differ");
    assert!(size(&folder.read("out/mug/contact-sheet.png")).0 > 512);

    let result = folder.json("out/mug/result.json");
    assert_eq!(result["status"], "completed");
    assert_eq!(result["parameters"]["bundle"], "mini");
    assert_eq!(result["parameters"]["text_guidance"], 4.0, "the bundle's default is written down");
    assert_eq!(result["subject"]["name"], "mug");
    assert_eq!(result["subject"]["how"], "detector");
    assert_eq!(result["seeds"], serde_json::json!([7, 8]));
    for network in ["dinov2", "flux_vae", "text_encoder", "transformer", "visual_tokenizer"] {
        let digest = result["models"][network].as_str().unwrap_or_else(|| panic!("no digest of {network}"));
        assert_eq!(digest.len(), 64, "{network}");
    }
    for stage in ["dispatcher", "segmenter", "encoder", "sampler"] {
        assert!(result["timings"][stage].is_number(), "{stage}");
        assert_eq!(result["cached"][stage], false, "{stage}");
    }
}

#[test]
fn how_the_subject_is_looked_for_can_be_set() {
    let mug = subject("mug.png");
    let run = |options: &[&str]| {
        let given = ["generate", "-s", &mug, "-p", "a mug on a desk", "--name", "mug", "--id", "mug"];
        let folder = Folder::new();
        (folder.run(&[&given, options].concat()), folder)
    };
    run(&["--threshold", "1"]).0.expect_error(1, "1.00 is needed");
    let (ended, folder) = run(&["--selection", "published", "--padding", "0.1"]);
    ended.expect(0);
    assert_eq!(folder.json("out/mug/result.json")["subject"]["how"], "detector");
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_company() {
    let folder = Folder::new();
    let mug = subject("mug.png");
    let run = |id: &str, seeds: &str| {
        folder.run(&["generate", "-s", &mug, "-p", "a mug on a desk", "--id", id, "--seeds", seeds]).expect(0);
    };
    run("alone", "5");
    run("together", "4,5");
    assert_eq!(folder.read("out/alone/image-0.png"), folder.read("out/together/image-1.png"));
    let cached = &folder.json("out/together/result.json")["cached"];
    assert_eq!(cached["segmenter"], true, "the second job finds how its subject is cut out");
    assert_eq!(cached["encoder"], true, "and the encoded subject");
}

#[test]
fn the_same_command_finds_its_job_done() {
    let folder = Folder::new();
    let robot = subject("robot.png");
    let arguments =
        ["generate", "-s", &robot, "-p", "a robot in the rain", "--format", "jpeg", "--aspect-ratio", "16:9"];
    let first = folder.run(&arguments).expect(0);
    let path = first.stdout.lines().next().expect("a path").to_owned();
    let (width, height) = size(&folder.read(&path));
    assert!(path.ends_with("image-0.jpg") && width > height, "{path}: {width} x {height}");
    let second = folder.run(&arguments).expect(0);
    assert_eq!(first.stdout, second.stdout);
    assert!(second.stderr.contains("done before"), "{}", second.stderr);
}

#[test]
fn whoever_gave_an_id_is_told_to_give_another_to_another_job() {
    let folder = Folder::new();
    let robot = subject("robot.png");
    let run = |seed: &str, exit| {
        folder.run(&["generate", "-s", &robot, "-p", "a robot", "--id", "named", "--seed", seed]).expect(exit).stderr
    };
    assert!(!run("1", 0).contains("done before"));
    let told = run("1", 0);
    assert!(told.contains("done before") && told.contains("another --id") && !told.contains("--seed"), "{told}");
    let told = run("2", 1);
    assert!(told.contains("named is taken by a job of other content; take another id"), "{told}");
}

#[test]
fn json_is_for_programs() {
    let folder = Folder::new();
    let run =
        folder.run(&["generate", "-s", &subject("cactus.png"), "-p", "a cactus", "--id", "c", "--json"]).expect(0);
    let lines: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    assert_eq!(lines[0]["type"], "job");
    assert_eq!(lines[0]["status"], "done");
    assert_eq!(lines[0]["images"][0], "out/c/image-0.png");
    assert_eq!(lines[1]["type"], "summary");
    assert_eq!(lines[1]["done"], 1);
    assert_eq!(run.stderr, "");
}

#[test]
fn flags_count_before_the_environment_and_that_before_the_file() {
    let folder = Folder::new();
    folder.write("echogen.toml", "[job]\ncount = 3\ntop_k = 2\ntop_p = 0.5\n");
    let mut command = folder.command(&["config", "show", "--count", "1", "--json"]);
    command.env("ECHOGEN_JOB_COUNT", "2").env("ECHOGEN_JOB_TOP_K", "1");
    let run = crate::program::Run::of(command).expect(0);
    let setting = |name: &str| -> serde_json::Value {
        let all = run.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        all.into_iter().find(|setting| setting["name"] == name).unwrap_or_else(|| panic!("{name} is not set"))
    };
    let is = |name: &str, value: &str, layer: &str, at: Option<&str>| {
        let setting = setting(name);
        assert_eq!((&setting["value"], &setting["layer"]), (&value.into(), &layer.into()), "{setting}");
        assert_eq!(setting["at"].as_str(), at, "{setting}");
    };
    is("job.count", "1", "flag", Some("--count"));
    is("job.top_k", "1", "environment", Some("ECHOGEN_JOB_TOP_K"));
    is("job.top_p", "0.5", "file", Some("echogen.toml, line 4"));
    is("worker.grace_seconds", "25.0", "default", None);
}

#[test]
fn the_schema_of_a_job_is_json() {
    let run = Folder::new().run(&["schema", "job"]).expect(0);
    let schema: serde_json::Value = serde_json::from_str(&run.stdout).expect("a schema");
    assert!(schema["properties"]["prompt"].is_object());
}
