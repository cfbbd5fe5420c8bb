//! Tests of reading jobs files.

use echogen_protocol::{OutputFormat, PerScale, Seeds};
use serde_json::json;

use super::{
    forms::{self, Becomes},
    *,
};
use crate::embedded::JobSource;

fn defaults() -> JobFields {
    let fields = json!({ "guidance": {"text": 4.0, "subject": 2.0}, "seeds": {"count": 3}, "top_k": 1,
        "output": { "format": "webp" } });
    fields.as_object().cloned().unwrap()
}

fn job_of_line(text: &[u8], defaults: &JobFields) -> Result<Job, String> {
    parsed(&JobLine { number: 1, text: Some(text.to_vec()) }, defaults)
}

#[test]
fn relative_paths_start_at_the_jobs_file() {
    let moved = |image: &str| beside(Path::new("jobs"), image.into()).0;
    assert_eq!(moved("dog.png"), "jobs/dog.png");
    assert_eq!(moved("/pictures/dog.png"), "/pictures/dog.png");
    assert_eq!(moved("https://example.org/dog.png"), "https://example.org/dog.png");
    assert_eq!(moved("data:,x"), "data:,x");
}

#[test]
fn a_line_counts_before_the_defaults_field_by_field() {
    let line = br#"{"id": "a", "subject": {"image": "a.png"}, "prompt": "p", "guidance": {"text": 1}, "seeds": [5]}"#;
    let job = job_of_line(line, &defaults()).unwrap();
    assert_eq!(job.guidance.text, Some(PerScale::All(1.0)));
    assert_eq!(job.guidance.subject, Some(PerScale::All(2.0)));
    assert_eq!(job.seeds, Seeds::List(vec![5]));
    assert_eq!(job.top_k, Some(1));
}

#[test]
fn without_defaults_a_line_is_read_as_it_is() {
    let line = br#"{"id": "a", "subject": {"image": "a.png"}, "prompt": "p"}"#;
    assert_eq!(job_of_line(line, &JobFields::new()).unwrap(), Job::parse(line).unwrap());
}

#[test]
fn a_faulty_line_has_the_same_message_with_and_without_defaults() {
    for line in [
        &b"{"[..],
        b"7",
        b"{\"subjct\": {}}",
        b"{\"subject\": 7, \"prompt\": \"p\"}",
        b"{\"prompt\": \"a\", \"prompt\": \"b\", \"subject\": {\"image\": \"a\"}}",
    ] {
        let error = job_of_line(line, &defaults()).unwrap_err();
        assert_eq!(error, job_of_line(line, &JobFields::new()).unwrap_err());
        assert!(!error.contains("line 1"), "{error}");
    }
}

/// Reads a file as `batch` does.
async fn outcomes(bytes: &[u8], defaults: JobFields) -> Result<Vec<(u64, Result<Job, String>)>, Failure> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.jsonl");
    std::fs::write(&path, bytes).unwrap();
    let mut file = JobsFile::open(&path, defaults).await?;
    let mut all = Vec::new();
    while let Some(candidate) = JobSource::next(&mut file).await? {
        all.push((candidate.line.unwrap(), candidate.job));
    }
    Ok(all)
}

#[tokio::test]
async fn every_form_of_a_file_is_read_or_refused_by_line() {
    for form in forms::all() {
        let answer = outcomes(&form.bytes, defaults()).await;
        match form.becomes {
            Becomes::Refused(word) => forms::check_refusal(form.name, word, &answer.unwrap_err().message),
            Becomes::Lines(jobs, refused) => {
                let lines = answer.unwrap();
                let read: Vec<u64> = lines.iter().filter(|line| line.1.is_ok()).map(|line| line.0).collect();
                assert_eq!(read, jobs, "{}", form.name);
                let errors = lines.iter().filter_map(|(line, job)| Some((*line, job.as_ref().err()?.clone())));
                forms::check_errors(form.name, &refused, &errors.collect::<Vec<_>>());
                for job in lines.into_iter().filter_map(|line| line.1.ok()) {
                    let filled = (job.output.format, job.seeds.values().len());
                    assert_eq!(filled, (OutputFormat::Webp, 3), "{}: the defaults count for every line", form.name);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_line_of_many_values_is_refused_in_little_memory() {
    let mut text =
        format!(r#"{{"subject":{{"image":"a"}},"prompt":"p","extra":[{}0]}}"#, r#"{"":0},"#.repeat(1_000_000));
    text.push_str("\n{\"subject\":{\"image\":\"a\"},\"prompt\":\"p\"}\n");
    let lines = outcomes(text.as_bytes(), defaults()).await.unwrap();
    assert!(lines[0].1.as_ref().unwrap_err().contains("more values than any job has"));
    assert!(lines[1].1.is_ok());
}

#[tokio::test]
async fn messages_of_lines_are_short_whatever_the_line_contains() {
    for unit in ["A", "\u{202e}", "\u{1b}[31m", "\"", "{", "\\u0000"] {
        let odd = unit.repeat((7 << 20) / unit.len());
        let field = format!(r#"{{"subject":{{"image":"a"}},"prompt":"p","lane":"{odd}"}}"#);
        let text = format!("{odd}\n{{\"{odd}\":1}}\n{field}\n{{{odd}\n");
        for (line, job) in outcomes(text.as_bytes(), defaults()).await.unwrap() {
            let error = job.unwrap_err();
            assert!(error.chars().count() <= 1_000, "line {line} of {unit:?}");
            assert!(!error.contains(|c: char| c.is_control() || c == '\u{202e}'), "line {line} of {unit:?}: {error}");
        }
    }
}

#[tokio::test]
async fn equal_lines_with_other_pictures_are_other_jobs() {
    let id = async |picture: &[u8], bundle: &str| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dog.png"), picture).unwrap();
        let jobs = folder.path().join("jobs.jsonl");
        std::fs::write(&jobs, r#"{"subject": {"image": "dog.png"}, "prompt": "a dog"}"#).unwrap();
        let file = JobsFile::open(&jobs, JobFields::new()).await.unwrap();
        let ids = ContentIds { bundle: bundle.to_owned(), max_image_bytes: 1 << 20 };
        let mut named = file.with_content_ids(ids);
        let line = named.next_line().await.unwrap().unwrap();
        let named = named.job(&line).unwrap().id;
        // To be sent, a job gets its id when its picture goes with it.
        let mut plain = JobsFile::open(&jobs, JobFields::new()).await.unwrap();
        let line = plain.next_line().await.unwrap().unwrap();
        assert_eq!(plain.job(&line).unwrap().id.as_str(), "");
        named
    };
    let one = id(b"one", "mini").await;
    assert!(one.as_str().starts_with("job-") && one.as_str().len() == 36, "{one}");
    assert_eq!(id(b"one", "mini").await, one, "wherever the file lies");
    assert_ne!(id(b"other", "mini").await, one);
    assert_ne!(id(b"one", "large").await, one);
}
