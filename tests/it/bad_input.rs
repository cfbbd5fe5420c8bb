//! Invalid input: each case gives one line that says what to change and the documented exit code, and no other job is
//! affected.

use crate::program::{Folder, repository, subject};

/// A PNG of the given size whose data is a few bytes.
fn png_header(width: u32, height: u32) -> Vec<u8> {
    let mut header = Vec::from(*b"IHDR");
    header.extend_from_slice(&width.to_be_bytes());
    header.extend_from_slice(&height.to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]); // 8 bits, RGB
    let mut png = Vec::from(*b"\x89PNG\r\n\x1a\n");
    for chunk in [header, Vec::from(*b"IDAT\x78\x9c\x03\x00\x00\x00\x00\x01"), Vec::from(*b"IEND")] {
        png.extend_from_slice(&(chunk.len() as u32 - 4).to_be_bytes());
        png.extend_from_slice(&chunk);
        png.extend_from_slice(&crc32(&chunk).to_be_bytes());
    }
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { 0xedb8_8320 ^ (sum >> 1) } else { sum >> 1 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

#[track_caller]
fn check_picture(name: &str, bytes: &[u8], part: &str) {
    let folder = Folder::new();
    folder.write(name, bytes);
    folder.run(&["generate", "--subject", name, "--prompt", "a thing"]).expect_error(1, part);
}

#[track_caller]
fn check_options(options: &[&str], part: &str) {
    let mug = subject("mug.png");
    let given = ["generate", "--subject", &mug, "--prompt", "a mug"];
    Folder::new().run(&[&given, options].concat()).expect_error(2, part);
}

#[test]
fn a_missing_picture() {
    let arguments = ["generate", "--subject", "none.png", "--prompt", "a thing"];
    Folder::new().run(&arguments).expect_error(2, "cannot read the subject's picture none.png");
}

#[test]
fn what_is_no_picture() {
    check_picture("text.png", b"hello", "file is text, not a picture; give a JPEG or PNG picture");
    check_picture("page.jpg", b"<!DOCTYPE html><title>Log in</title>", "file is a web page (HTML), not a picture");
    let heic = std::fs::read(repository("tests/fixtures/pictures/IMG_0001.HEIC")).expect("the fixture is there");
    check_picture("IMG_0001.jpg", &heic, "HEIC pictures are not supported; convert it to JPEG or PNG");
    check_picture("empty.png", b"", "is empty");
}

#[test]
fn cut_off_pictures() {
    let whole = |name: &str| std::fs::read(subject(name)).expect("the examples are there");
    let (png, jpeg) = (whole("mug.png"), whole("rocket.jpg"));
    check_picture("half.png", &png[..png.len() / 2], "png file ends too early");
    check_picture("half.jpg", &jpeg[..jpeg.len() / 2], "jpeg file ends too early");
}

#[test]
fn a_decompression_bomb_is_refused_before_decoding() {
    check_picture("bomb.png", &png_header(30_000, 30_000), "image is 30,000 x 30,000; the limit is");
}

#[test]
fn impossible_boxes() {
    check_options(&["--box", "5,5,5,9"], "subject.box: is empty");
    check_options(&["--box", "1,2,3"], "left,top,right,bottom");
    let folder = Folder::new();
    let given = ["generate", "--subject", &subject("mug.png"), "--prompt", "a mug", "--box", "0,0,9999,9"];
    folder.run(&given).expect_error(1, "outside the picture");
}

#[test]
fn impossible_prompts() {
    check_options(&["--prompt", " "], "cannot be used multiple times");
    let mug = subject("mug.png");
    let run = |prompt: &str| Folder::new().run(&["generate", "--subject", &mug, "--prompt", prompt]);
    run("").expect_error(2, "prompt: is empty; write a few words");
    run(&"x".repeat(10_000)).expect_error(2, "prompt: has 10000 characters; the limit is 2000");
}

#[test]
fn impossible_numbers() {
    check_options(&["--aspect-ratio", "square"], "from 1:3 to 3:1");
    check_options(&["--guidance-text", "NaN"], "--guidance-text is \"NaN\"; write a number");
    check_options(&["--guidance-text", "much"], "--guidance-text is \"much\"; write a number");
    check_options(&["--count", "0"], "--count is 0; a job makes 1 to 64 pictures");
    check_options(&["--count", "10000"], "--count is 10000; a job makes 1 to 64 pictures");
    check_options(&["--temperature", "0"], "--temperature is 0");
    check_options(&["--top-p", "1.5"], "--top-p is 1.5");
    check_options(&["--cuont", "1"], "did you mean --count?");
}

#[test]
fn what_the_bundle_does_not_offer() {
    let mug = subject("mug.png");
    let given = ["generate", "--subject", &mug, "--prompt", "a mug"];
    let run = |options: &[&str]| Folder::new().run(&[&given, options].concat());
    run(&["--pixels", "1M"]).expect_error(1, "the model bundle has no pixel budget 1M; use one of: 0.004M");
    run(&["--mask", "sam"]).expect_error(1, "use \"box\" or \"none\"");
    run(&["--guidance-text", "1,2,3"]).expect_error(1, "one for each of the 5 scales");
}

#[test]
fn a_bundle_that_is_not_whole() {
    let mug = subject("mug.png");
    check_options(&["--bundle", "nothing"], "nothing");

    let folder = Folder::new();
    let bundle = folder.path("mini");
    std::fs::create_dir(&bundle).expect("a folder");
    for entry in std::fs::read_dir(repository("bundles/mini")).expect("the bundle is there") {
        let entry = entry.expect("it can be listed");
        std::fs::copy(entry.path(), bundle.join(entry.file_name())).expect("it can be copied");
    }
    let given = ["generate", "--subject", &mug, "--prompt", "a mug", "--bundle", "./mini"];
    let weights = bundle.join("dinov2.safetensors");
    let mut bytes = std::fs::read(&weights).expect("the weights are there");
    *bytes.last_mut().expect("and not empty") ^= 1;
    std::fs::write(&weights, bytes).expect("a file");
    folder.run(&given).expect_error(2, "dinov2.safetensors has SHA-256");
    std::fs::remove_file(&weights).expect("it was there");
    folder.run(&given).expect_error(2, "dinov2.safetensors is missing");
}

#[test]
fn an_output_folder_that_cannot_be_written() {
    let folder = Folder::new();
    folder.write("file", "no folder");
    let given = ["generate", "--subject", &subject("mug.png"), "--prompt", "a mug", "--out", "file/out"];
    folder.run(&given).expect_error(2, "cannot write to the folder file/out");
}

#[test]
fn jobs_files_that_cannot_be_read() {
    let folder = Folder::new();
    folder.run(&["batch", "none.jsonl"]).expect_error(2, "cannot read the jobs file none.jsonl");
    folder.run(&["batch", "."]).expect_error(2, "is a folder");
    folder.run(&["batch"]).expect_error(2, "JOBS");
}

#[test]
fn configuration_files_that_are_wrong() {
    let folder = Folder::new();
    let given = ["config", "show", "--config", "my.toml"];
    folder.run(&given).expect_error(2, "cannot read the configuration file my.toml");
    folder.write("my.toml", "[job]\ncount = \n");
    folder.run(&given).expect_error(2, "my.toml, line 2");
    folder.write("my.toml", "[job]\ncuont = 1\n");
    folder.run(&given).expect_error(2, "my.toml, line 2: there is no setting job.cuont; did you mean job.count?");
    folder.write("my.toml", "[job]\ncount = true\n");
    folder.run(&given).expect_error(2, "job.count in my.toml, line 2 is true; write a whole number");
}

#[test]
fn jobs_of_a_batch_fail_one_by_one() {
    let folder = Folder::new();
    folder.write("bomb.png", png_header(30_000, 30_000));
    let job = |id: &str, fields: &str| format!("{{\"id\": {id:?}, {fields}}}\n");
    let mug = format!("\"subject\": {{\"image\": {}}}, \"prompt\": \"a mug\"", serde_json::json!(subject("mug.png")));
    let lines = [
        job("bomb", "\"subject\": {\"image\": \"bomb.png\"}, \"prompt\": \"boom\""),
        job("ratio", &format!("{mug}, \"aspect_ratio\": \"9:1\"")),
        job("nan", &format!("{mug}, \"guidance\": {{\"text\": NaN}}")),
        job("count", &format!("{mug}, \"seeds\": {{\"count\": 10000}}")),
        job("fine", &mug),
    ];
    folder.write("jobs.jsonl", lines.concat());
    let run = folder.run(&["batch", "jobs.jsonl"]).expect(1);
    let parts = ["line 1: job bomb: image is 30,000", "line 2: aspect_ratio", "line 3: ", "line 4: seeds.count"];
    for part in parts {
        assert!(run.stderr.contains(part), "{part} is not in:\n{}", run.stderr);
    }
    assert!(run.stderr.contains("1 done, 4 failed"), "{}", run.stderr);
    assert!(folder.path("out/fine/image-0.png").is_file());
}
