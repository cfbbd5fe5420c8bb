//! What reading takes: for any body, memory in a small proportion to its length.

mod peak;

use echogen_protocol::{
    EncodeTask, Job, JobEvent, JobResult, NotifyTask, SampleTask, SegmentTask, StageTask, json, limits,
};
use peak::peak_of;

#[global_allocator]
static ALLOCATOR: peak::Counting = peak::Counting;

/// Bytes that reading may take for each byte of a body, and in addition. The most is an error of a library that quotes a
/// text of escapes before it is cut.
const PER_BYTE: usize = 6;
const SPARE: usize = 1 << 20;

const MOST: usize = limits::MAX_JOB_JSON_BYTES - 1_000;

fn nested(levels: usize, length: usize) -> String {
    let unit = format!("{}0{},", r#"{"":"#.repeat(levels), "}".repeat(levels));
    format!("[{}0]", unit.repeat(length / unit.len() - 1))
}

/// Values that take much more memory than text, each about as long as a body may be.
fn values(length: usize) -> Vec<(&'static str, String)> {
    let list = |unit: &str| format!("[{}0]", unit.repeat(length / unit.len() - 1));
    let members: String = (0..length / 32).map(|number| format!("\"{number:x}\":0,\"{number:x}\":0,")).collect();
    vec![
        ("objects, 124 deep", nested(124, length)),
        ("objects, 20 deep", nested(20, length)),
        ("objects of one", list(r#"{"":0},"#)),
        ("lists", list("[],")),
        ("numbers", list("0,")),
        ("texts", list("\"\",")),
        ("members, each twice", format!("{{{members}\"z\":0}}")),
        ("a text", format!("\"{}\"", "x".repeat(length))),
        ("a text of escapes", format!("\"{}\"", r"\u202e".repeat(length / 6))),
        ("a text of line breaks", format!("\"{}\"", r"\n".repeat(length / 2))),
    ]
}

/// Reads a body and says whether it was accepted.
type Reader = fn(&[u8]) -> bool;

/// Every reader of this crate on every body; `{}` in a body stands for the value.
fn readers() -> Vec<(&'static str, &'static str, Reader)> {
    const JOB: &str = r#"{"id":"one","subject":{"image":{}},"prompt":"a dog"}"#;
    const EXTRA: &str = r#"{"id":"one","subject":{"image":"dog.png"},"prompt":"a dog","extra":{}}"#;
    const NOTICE: &str = concat!(
        r#"{"stage":"notify","callback":"https://example.org/x","event":{"specversion":"1.0","id":"one/completed","#,
        r#""source":"echogen","type":"echogen.job.completed","subject":"one","time":"2030-12-31T23:59:00Z","#,
        r#""datacontenttype":"application/json","data":{}}}"#
    );
    const EVENT: &str = concat!(
        r#"{"specversion":"1.0","id":"one/completed","source":"echogen","type":"echogen.job.completed","subject":"one","#,
        r#""time":"2030-12-31T23:59:00Z","datacontenttype":"application/json","data":{}}"#
    );
    const MASK: &str = concat!(
        r#"{"stage":"encode","job":{"id":"one","subject":{"image":"dog.png"},"prompt":"a dog"},"cut_out":{"image":"#,
        r#""9882a5e79555c3a8183d0427a41311f5fb973ad86465b02cafa9bf87091823cb","area":{"kind":"mask","width":1,"height":1,"#,
        r#""runs":{}}}}"#
    );
    const RESULT: &str = r#"{"id":"one","status":"completed","version":"1","finished":"2030-12-31T23:59:00Z","images":[],"metadata":{}}"#;
    let event = |body: &[u8]| json::read::<JobEvent>(body, &json::Bounds::MESSAGE).is_ok();
    let result = |body: &[u8]| json::read::<JobResult>(body, &json::Bounds::MESSAGE).is_ok();
    vec![
        ("job", JOB, |body| Job::parse(body).is_ok()),
        ("job with an unknown field", EXTRA, |body| Job::parse(body).is_ok()),
        ("job as a whole", "{}", |body| Job::parse(body).is_ok()),
        ("a job's header", r#"{"id":{}}"#, |body| Job::unreadable_job(body).is_some()),
        ("another stage's header", r#"{"id":"one","stage":{}}"#, |body| Job::unreadable_job(body).is_some()),
        ("segment task", r#"{"stage":{},"job":{}}"#, |body| SegmentTask::parse(body).is_ok()),
        ("encode task", r#"{"stage":"encode","job":{},"cutout":""}"#, |body| EncodeTask::parse(body).is_ok()),
        ("mask", MASK, |body| EncodeTask::parse(body).is_ok()),
        ("sample task", r#"{"stage":"sample","encoded_subject":{}}"#, |body| SampleTask::parse(body).is_ok()),
        ("notice", NOTICE, |body| NotifyTask::parse(body).is_ok()),
        ("event", EVENT, event),
        ("result", RESULT, result),
    ]
}

/// One test, because what another one allocates meanwhile would count.
#[test]
fn reading_takes_memory_in_proportion_to_the_body() {
    drop(Job::parse(b"{}"));
    let mut over = Vec::new();
    for length in [1 << 16, 1 << 20, MOST] {
        for (kind, value) in values(length) {
            for (reader, form, read) in readers() {
                let body = form.replace("{}", &value);
                let (_, peak) = peak_of(|| read(body.as_bytes()));
                if peak > PER_BYTE * body.len() + SPARE {
                    over.push(format!("{reader}, {kind}: {peak} bytes of {}", body.len()));
                }
            }
        }
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
    let body = format!(r#"{{"subject":{{"image":"data:image/png;base64,{}"}},"prompt":"a dog"}}"#, "A".repeat(7 << 20));
    let (job, peak) = peak_of(|| Job::parse(body.as_bytes()));
    assert!(job.is_ok() && peak < body.len() + SPARE, "a picture is in memory once: {peak} bytes of {}", body.len());
}
