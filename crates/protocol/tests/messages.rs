//! Whatever a body contains, what a parser says of it is one short line without invisible characters.

use std::{collections::BTreeMap, fmt::Display};

use echogen_protocol::{
    AspectRatio, ContentHash, EncodeTask, ImageSource, Job, JobEvent, JobResult, Lane, NotifyTask, Parameters,
    PerScale, SampleTask, Seeds, SegmentTask, Segmentation, StageTask, SubjectKeys, TaskHeaders, TraceContext,
    check_object_key,
    json::{self, Bounds},
    limits,
};
use serde::de::DeserializeOwned;
use serde_json::json;

/// Values of up to 8 MiB with line breaks, controls, and characters that turn the direction of text.
fn values() -> Vec<String> {
    let most = limits::MAX_JOB_JSON_BYTES - 10_000;
    let mut values: Vec<String> =
        ["\n", "\u{202e}", "\u{2028}\u{85}", "é", "\"'\\`"].map(|unit| unit.repeat(2_000)).into();
    values.push("A".repeat(most));
    values.push("\u{1b}[31m\r\n".repeat(most / 200));
    values.extend(["a\nb", "\u{202e}", "\u{0}", "a\u{2066}b", "", "{\n"].map(str::to_owned));
    values
}

#[track_caller]
fn check<T>(answer: Result<T, impl Display>, place: &str) {
    let Err(error) = answer else { return };
    let text = error.to_string();
    let head: String = text.chars().take(200).collect();
    assert!(text.chars().count() <= 1_000, "{place}: {} characters, {head:?}", text.chars().count());
    let odd = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    assert!(!text.contains(odd), "{place}: {head:?}");
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, json::JsonError> {
    json::read(body, &Bounds::MESSAGE)
}

/// All readers of JSON, on one body.
fn read_all(body: &[u8], place: &str) {
    check(Job::parse(body), place);
    check(SegmentTask::parse(body), place);
    check(EncodeTask::parse(body), place);
    check(SampleTask::parse(body), place);
    check(NotifyTask::parse(body), place);
    check(read::<JobEvent>(body), place);
    check(read::<JobResult>(body), place);
    check(read::<Parameters>(body), place);
    check(read::<Segmentation>(body), place);
    check(read::<SubjectKeys>(body), place);
    check(read::<Seeds>(body), place);
    check(read::<PerScale>(body), place);
    drop(Job::unreadable_job(body));
}

/// Bodies of every kind, with all their fields.
fn bodies() -> Vec<serde_json::Value> {
    let hash = ContentHash::of(b"dog");
    let job = json!({
        "id": "one", "tenant": "t", "subject": { "image": "dog.png", "name": "dog",
            "box": { "left": 1, "top": 2, "right": 3, "bottom": 4 }, "mask": "box", "if_not_found": "fail" },
        "prompt": "a dog", "negative_prompt": "x", "seeds": [1, 2], "aspect_ratio": "16:9", "pixel_budget": "1M",
        "guidance": { "text": 2.5, "subject": [1, 2] }, "temperature": 1, "top_k": 2, "top_p": 0.9,
        "output": { "format": "jpeg", "quality": 90, "destination": "a/b" }, "lane": "bulk",
        "deadline": "2030-12-31T23:59:00Z", "callback": "https://example.org/x", "metadata": { "a": "b" },
    });
    let found = json!({ "image": hash, "name": "dog", "box": job["subject"]["box"], "score": 0.5, "how": "detector" });
    let progress =
        json!({ "timings": { "a": 0.5 }, "cached": { "a": true }, "models": { "a": "b" }, "subject": found });
    let boxed = json!({ "kind": "box", "left": 1, "top": 2, "right": 3, "bottom": 4 });
    let mask = json!({ "kind": "mask", "width": 3, "height": 2, "runs": "15" });
    let parameters = json!({ "bundle": "b", "prompt": "p", "aspect_ratio": "1:1", "pixel_budget": "1M", "width": 1,
        "height": 1, "text_guidance": 1, "subject_guidance": 1, "temperature": 1, "top_k": 1, "top_p": 1.0,
        "format": "png", "quality": 90 });
    let result = json!({ "id": "one", "status": "completed", "error": { "kind": "internal", "message": "m" },
        "images": [{ "key": "a", "seed": 1, "width": 1, "height": 1, "sha256": hash }], "seeds": [1],
        "parameters": parameters, "subject": found, "models": { "a": "b" }, "version": "1", "timings": { "a": 0.5 },
        "cached": { "a": true }, "finished": "2030-12-31T23:59:00Z", "metadata": { "a": "b" } });
    let event = json!({ "specversion": "1.0", "id": "one/completed", "source": "echogen", "type": "echogen.job.completed",
        "subject": "one", "time": "2030-12-31T23:59:00Z", "datacontenttype": "application/json", "data": result });
    vec![
        json!({ "stage": "segment", "job": job, "image": hash, "progress": progress }),
        json!({ "stage": "encode", "job": job, "cutout": hash, "progress": progress }),
        json!({ "stage": "encode", "job": job, "cut_out": { "image": hash, "area": mask }, "progress": progress }),
        json!({ "stage": "sample", "job": job, "encoded_subject": "subjects/a",
            "cut_out": { "image": hash, "area": boxed }, "progress": progress }),
        json!({ "stage": "notify", "callback": "https://example.org/x", "event": event }),
        json!({ "subject": found, "area": mask }),
        json!({ "encoders": "a", "finders": "b", "default_pixel_budget": "1M", "resolutions": { "1M": 512 } }),
        job,
        parameters,
        result,
        event,
    ]
}

/// The paths of all values of a body.
fn paths(value: &serde_json::Value, path: &str, all: &mut Vec<String>) {
    all.push(path.to_owned());
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| paths(value, &format!("{path}/{name}"), all));
        }
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| paths(value, &format!("{path}/{index}"), all));
        }
        _ => {}
    }
}

#[test]
fn every_field_of_every_body_is_quoted_briefly() {
    let long: String = "A\n\u{202e}".repeat(2_000);
    for body in bodies() {
        let mut all = Vec::new();
        paths(&body, "", &mut all);
        for path in all {
            for value in [json!(long), json!({ &long: 0 }), json!([long])] {
                let mut changed = body.clone();
                if let Some(place) = changed.pointer_mut(&path) {
                    *place = value.clone();
                }
                read_all(changed.to_string().as_bytes(), &path);
                if let Some(fields) = body.pointer(&path).and_then(serde_json::Value::as_object) {
                    let mut fields = fields.clone();
                    fields.insert(long.clone(), value);
                    let mut changed = body.clone();
                    if let Some(place) = changed.pointer_mut(&path) {
                        *place = fields.into();
                    }
                    read_all(changed.to_string().as_bytes(), &path);
                }
            }
        }
    }
}

#[test]
fn bodies_and_texts_of_megabytes_are_quoted_briefly() {
    for value in values() {
        let text = json!(value).to_string();
        for form in [
            "{}",
            r#"{"stage":{}}"#,
            r#"{"status":{}}"#,
            r#"{"id":{}}"#,
            r#"{{}:1}"#,
            r#"{"type":{}}"#,
            r#"{"lane":{}}"#,
            r#"{"subject":{"image":{}},"prompt":"a"}"#,
            r#"{"subject":{{}:0},"prompt":"a"}"#,
            r#"{"subject":{"image":"a"},"prompt":{}}"#,
            r#"{"subject":{"image":"a"},"prompt":"a","metadata":{{}:{}}}"#,
        ] {
            read_all(form.replace("{}", &text).as_bytes(), form);
        }
        read_all(value.as_bytes(), "no JSON");
        check(value.parse::<ContentHash>(), "hash");
        check(value.parse::<AspectRatio>(), "aspect ratio");
        check(value.parse::<Lane>(), "lane");
        check(value.parse::<TraceContext>(), "trace");
        check(check_object_key(&value), "key");
        check(ImageSource(value.clone()).location(), "source");
        check(ImageSource(format!("https://{value}")).location(), "address");
        check(ImageSource(format!("sha256:{value}")).location(), "stored");
        let headers: BTreeMap<String, String> =
            TaskHeaders::NAMES.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
        let kept = TaskHeaders::from_map(&headers).to_map();
        assert!(kept.values().all(|text| text.len() <= limits::MAX_HEADER_BYTES), "headers are bounded");
        for name in ["echogen-last-error", "echogen-job", "echogen-stage"] {
            check(kept.get(name).map_or(Ok(()), Err), name);
        }
    }
}
