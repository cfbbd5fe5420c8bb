//! Valid and invalid jobs: the parser and the published schema agree.

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{JobId, PerScale, Seeds};

static SCHEMA: LazyLock<jsonschema::Validator> =
    LazyLock::new(|| jsonschema::validator_for(Job::schema()).expect("the schema is a schema"));

/// A job with `fields` in place of, or beside, the two that every job has.
fn with(fields: Value) -> Value {
    let mut job = json!({ "subject": { "image": "dog.png" }, "prompt": "a dog on a beach" });
    for (name, value) in fields.as_object().unwrap() {
        job[name] = value.clone();
    }
    job
}

fn parse(job: &Value) -> Result<Job, JobError> {
    Job::parse(job.to_string().as_bytes())
}

#[track_caller]
fn good(fields: Value) -> Job {
    let job = with(fields);
    assert!(SCHEMA.is_valid(&job), "the schema refuses {job}");
    parse(&job).unwrap()
}

/// Refused by the parser with `message`, and by the schema too.
#[track_caller]
fn bad(fields: Value, message: &str) {
    let job = with(fields);
    assert_eq!(parse(&job).unwrap_err().to_string(), message);
    assert!(!SCHEMA.is_valid(&job), "the schema accepts {job}");
}

/// Refused by the parser with `message`, for a reason that a schema cannot express.
#[track_caller]
fn bad_beyond_the_schema(fields: Value, message: &str) {
    let job = with(fields);
    assert_eq!(parse(&job).unwrap_err().to_string(), message);
    assert!(SCHEMA.is_valid(&job), "the schema refuses {job} already");
}

#[test]
fn the_least_job_gets_every_default() {
    let job = good(json!({}));
    assert_eq!(job, Job::new("dog.png".into(), "a dog on a beach").with_id());
    assert_eq!(job.seeds.values(), [42]);
    assert_eq!(job.aspect_ratio.width_to_height(), 1.0);
}

#[test]
fn a_job_with_everything_is_read_and_written_alike() {
    let job = good(json!({
        "id": "order-7.b", "tenant": "acme", "negative_prompt": "rain",
        "subject": { "image": "s3://bucket/dog.png", "name": "corgi", "mask": "none",
                     "box": { "left": 1, "top": 2, "right": 30, "bottom": 40 } },
        "seeds": [1, 2, 18_446_744_073_709_551_615_u64], "aspect_ratio": "16:9", "pixel_budget": "0.25M",
        "guidance": { "text": 2.5, "subject": [1, 2.5, 3] }, "temperature": 2, "top_k": 900, "top_p": 0.97,
        "output": { "format": "jpeg", "quality": 85, "destination": "results/today" },
        "previews": 4, "lane": "bulk", "deadline": "2030-12-31T23:59:00+01:00", "callback": "https://example.org/done",
        "metadata": { "order": "7", "note": "line one\nline two" },
    }));
    assert_eq!(job.id.as_str(), "order-7.b");
    assert_eq!(job.result_key(), "results/today/order-7.b/result.json");
    let written = serde_json::to_value(&job).unwrap();
    assert!(SCHEMA.is_valid(&written));
    assert_eq!(parse(&written).unwrap(), job);
}

#[test]
fn previews_are_no_part_of_what_a_job_asks_for() {
    let job = good(json!({ "id": "one", "previews": 16 }));
    assert_eq!(job.content(), good(json!({ "id": "one" })).content());
    assert_eq!(good(json!({ "previews": 0 })), good(json!({})), "nor does a job without them look different");
    bad(json!({ "previews": 17 }), "previews: is 17; give a number from 0 to 16");
    bad(json!({ "previews": -1 }), "previews: expected a whole number, 0 or more, got -1");
}

#[test]
fn other_shapes_of_the_same_fields_are_fine() {
    assert_eq!(good(json!({ "seeds": { "count": 3 } })).seeds.values(), [42, 43, 44]);
    assert_eq!(good(json!({ "seeds": { "first": 7, "count": 2 } })).seeds, Seeds::Range { first: 7, count: 2 });
    assert_eq!(good(json!({ "aspect_ratio": 1.5 })).aspect_ratio.width_to_height(), 1.5);
    assert_eq!(good(json!({ "guidance": { "text": 3 } })).guidance.text, Some(PerScale::All(3.0)));
    assert_eq!(good(json!({ "temperature": null, "tenant": null, "deadline": null })), good(json!({})));
    good(json!({ "prompt": "two\nlines" }));
    good(json!({ "prompt": "é".repeat(2_000) }));
}

#[test]
fn unknown_fields_are_refused_with_the_nearest_name_at_every_depth() {
    bad(json!({ "promt": "x" }), "unknown field \"promt\"; did you mean \"prompt\"?");
    bad(json!({ "subject": { "image": "a", "bbox": {} } }), "subject: unknown field \"bbox\"; did you mean \"box\"?");
    bad(
        json!({ "subject": { "image": "a", "box": { "left": 0, "top": 0, "rigth": 1, "bottom": 1 } } }),
        "subject.box: unknown field \"rigth\"; did you mean \"right\"?",
    );
    bad(json!({ "guidance": { "txt": 1 } }), "guidance: unknown field \"txt\"; did you mean \"text\"?");
    bad(json!({ "seeds": { "cuont": 1 } }), "seeds: unknown field \"cuont\"; did you mean \"count\"?");
    bad(json!({ "output": { "Format": "png" } }), "output: unknown field \"Format\"; did you mean \"format\"?");
    bad(json!({ "output": { "xyzzy": 1 } }), "output: unknown field \"xyzzy\"; known are destination, format, quality");
}

#[test]
fn unknown_values_are_refused_with_the_nearest_value() {
    bad(json!({ "output": { "format": "jpg" } }), "output.format: unknown value \"jpg\"; did you mean \"jpeg\"?");
    bad(json!({ "lane": "fast" }), "lane: unknown value \"fast\"; known are interactive, standard, bulk");
    bad(
        json!({ "pixel_budget": "big" }),
        "pixel_budget: \"big\" is no pixel budget; name it by its millions of pixels, such as 0.06M, 0.25M, 0.60M or 1M",
    );
    bad(
        json!({ "subject": { "image": "a", "mask": "boxx" } }),
        "subject.mask: unknown value \"boxx\"; did you mean \"box\"?",
    );
}

#[test]
fn wrong_types_and_missing_fields_are_named() {
    bad(json!({ "prompt": 7 }), "prompt: expected a string, got 7");
    bad(json!({ "prompt": null }), "prompt: expected a string, got null");
    bad(json!({ "subject": "dog.png" }), "subject: expected an object, got the string \"dog.png\"");
    bad(json!({ "subject": {} }), "subject: the field \"image\" is missing");
    bad(json!({ "subject": { "image": "a", "box": [0, 0, 9, 9] } }), "subject.box: expected an object, got a list");
    bad(json!({ "seeds": 7 }), "seeds: expected a list or an object, got 7");
    bad(json!({ "seeds": {} }), "seeds: the field \"count\" is missing");
    bad(json!({ "seeds": [1, -1] }), "seeds[1]: expected a whole number, 0 or more, got -1");
    bad(json!({ "top_k": 1.5 }), "top_k: expected a whole number, 0 or more, got 1.5");
    bad(json!({ "guidance": { "text": "NaN" } }), "guidance.text: expected a number or a list, got the string \"NaN\"");
    bad(json!({ "guidance": { "text": [1, "x"] } }), "guidance.text[1]: expected a number, got the string \"x\"");
    bad(json!({ "metadata": { "a": 1 } }), "metadata.a: expected a string, got 1");
    bad(json!({ "output": { "quality": 300 } }), "output.quality: expected a whole number, 0 or more, got 300");
    let error = parse(&json!({ "subject": { "image": "a" } })).unwrap_err();
    assert_eq!(error.to_string(), "the field \"prompt\" is missing");
}

#[test]
fn text_is_bounded() {
    bad(json!({ "prompt": "" }), "prompt: is empty; write a few words");
    bad(json!({ "prompt": "a".repeat(10_000) }), "prompt: has 10000 characters; the limit is 2000, shorten it");
    bad_beyond_the_schema(json!({ "prompt": " \n " }), "prompt: is empty; write a few words");
    bad_beyond_the_schema(
        json!({ "prompt": "a\u{7}b" }),
        "prompt: contains the control character '\\u{7}' at place 2; remove it",
    );
    bad_beyond_the_schema(
        json!({ "subject": { "image": "a", "name": "a\nb" } }),
        "subject.name: contains the control character '\\n' at place 2; remove it",
    );
    bad(json!({ "negative_prompt": "" }), "negative_prompt: is empty; write a few words");
    bad(json!({ "tenant": "a b" }), "tenant: \"a b\" contains ' '; use letters, digits, \".\", \"_\" and \"-\"");
}

#[test]
fn ids_are_safe_names() {
    bad(json!({ "id": "../x" }), "id: \"../x\" contains '/'; use letters, digits, \".\", \"_\" and \"-\"");
    bad(json!({ "id": ".x" }), "id: \".x\" begins with a dot; begin with a letter or digit");
    bad(json!({ "id": "" }), "id: is empty; leave it out to have one made");
    bad(json!({ "id": "x".repeat(129) }), "id: has 129 characters; give 1 to 128");
    bad(json!({ "id": 7 }), "id: expected a string, got 7");
}

#[test]
fn numbers_are_bounded() {
    bad(json!({ "seeds": { "count": 0 } }), "seeds.count: is 0; a job makes 1 to 64 pictures");
    bad(json!({ "seeds": { "count": 10_000 } }), "seeds.count: is 10000; a job makes 1 to 64 pictures");
    bad(json!({ "seeds": [] }), "seeds: lists 0 seeds; a job makes 1 to 64 pictures");
    bad(json!({ "seeds": [1, 1] }), "seeds[1]: 1 is listed twice; leave one out");
    bad(json!({ "top_k": 0 }), "top_k: is 0; 1 takes the likelier value of every bit, 2 or more draws");
    bad(json!({ "top_p": 0 }), "top_p: is 0; give a number above 0, at most 1");
    bad(json!({ "top_p": 1.01 }), "top_p: is 1.01; give a number above 0, at most 1");
    bad(json!({ "output": { "quality": 0 } }), "output.quality: is 0; give a number from 1 to 100");
    bad(json!({ "output": { "quality": 101 } }), "output.quality: is 101; give a number from 1 to 100");
    bad(json!({ "temperature": [] }), "temperature: lists 0 numbers; give 1 to 13, one a scale");
    bad(json!({ "temperature": vec![1; 14] }), "temperature: lists 14 numbers; give 1 to 13, one a scale");
    bad_beyond_the_schema(json!({ "temperature": 0 }), "temperature: is 0; give a number above 0, at most 100");
    bad_beyond_the_schema(json!({ "guidance": { "text": -1 } }), "guidance.text: is -1; give a number from 0 to 30");
    bad_beyond_the_schema(
        json!({ "guidance": { "subject": [2, 31] } }),
        "guidance.subject[1]: is 31; give a number from 0 to 30",
    );
}

#[test]
fn numbers_that_json_cannot_hold_are_refused_in_text_and_in_code() {
    let text = br#"{"subject":{"image":"a"},"prompt":"b","guidance":{"text":1e999}}"#;
    assert!(Job::parse(text).unwrap_err().to_string().contains("number out of range"));
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut job = good(json!({}));
        job.guidance.text = Some(PerScale::All(wrong));
        assert_eq!(job.validate().unwrap_err().field, "guidance.text");
        job.guidance.text = Some(PerScale::Each(vec![1.0, wrong]));
        assert_eq!(job.validate().unwrap_err().field, "guidance.text[1]");
        let job = Job { temperature: Some(PerScale::All(wrong)), ..good(json!({})) };
        assert_eq!(job.validate().unwrap_err().field, "temperature");
        let job = Job { top_p: Some(wrong), ..good(json!({})) };
        assert_eq!(job.validate().unwrap_err().field, "top_p");
    }
    assert_eq!(Job { id: JobId::default(), ..good(json!({})) }.validate().unwrap_err().field, "id");
}

#[test]
fn aspect_ratios_are_bounded_and_the_allowed_ones_listed() {
    let allowed = "use width:height or a number from 1:3 to 3:1, such as 1:1, 4:3, 3:4, 3:2, 2:3, 16:9 or 9:16";
    bad(json!({ "aspect_ratio": "wide" }), &format!("aspect_ratio: \"wide\" is no aspect ratio; {allowed}"));
    bad(json!({ "aspect_ratio": 7 }), &format!("aspect_ratio: \"7\" is too wide; {allowed}"));
    bad_beyond_the_schema(json!({ "aspect_ratio": "1:9" }), &format!("aspect_ratio: \"1:9\" is too narrow; {allowed}"));
    bad(json!({ "aspect_ratio": [16, 9] }), "aspect_ratio: expected a string or a number, got a list");
}

#[test]
fn boxes_destinations_callbacks_and_deadlines_are_checked() {
    bad_beyond_the_schema(
        json!({ "subject": { "image": "a", "box": { "left": 5, "top": 0, "right": 5, "bottom": 9 } } }),
        "subject.box: is empty: columns 5 to 5, rows 0 to 9; right and bottom are exclusive and must be larger",
    );
    bad(
        json!({ "output": { "destination": "a/../b" } }),
        "output.destination: \"a/../b\" has a part that begins with a dot; start it with a letter or digit",
    );
    bad(
        json!({ "output": { "destination": "/etc" } }),
        "output.destination: \"/etc\" has an empty part; no leading, trailing or double \"/\"",
    );
    bad(json!({ "callback": "http://example.org" }), "callback: \"http://example.org\" does not begin with https://");
    bad(json!({ "callback": "nonsense" }), "callback: \"nonsense\" is no address: relative URL without a base");
    bad_beyond_the_schema(
        json!({ "callback": "https://me:secret@example.org" }),
        "callback: carries a user name or password; take it out",
    );
    let moment = "deadline: \"tomorrow\" is no moment; write it like 2030-12-31T23:59:00Z";
    let job = with(json!({ "deadline": "tomorrow" }));
    assert_eq!(parse(&job).unwrap_err().to_string(), moment);
    bad(json!({ "deadline": 7 }), "deadline: expected a string, got 7");
}

#[test]
fn metadata_is_bounded() {
    let many: Map<String, Value> = (0..65).map(|index| (index.to_string(), json!(""))).collect();
    bad(json!({ "metadata": many }), "metadata: has 65 entries; the limit is 64");
    bad_beyond_the_schema(json!({ "metadata": { "": "x" } }), "metadata: the key \"\" has 0 characters; give 1 to 64");
    bad_beyond_the_schema(
        json!({ "metadata": { "a": "x".repeat(1_025) } }),
        "metadata: the value of \"a\" has 1025 characters; the limit is 1024",
    );
}

#[test]
fn what_is_no_job_at_all_is_refused_briefly() {
    for (text, message) in [
        ("", "this is not valid JSON: EOF while parsing a value at line 1 column 0"),
        ("{", "this is not valid JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "expected an object, got a list"),
        ("null", "expected an object, got null"),
    ] {
        assert_eq!(Job::parse(text.as_bytes()).unwrap_err().to_string(), message);
    }
    let countless = format!(r#"{{"id":"one","seeds":[0{}]}}"#, ",0".repeat(200_000));
    let error = Job::parse(countless.as_bytes()).unwrap_err().to_string();
    assert_eq!(error, "this is no job: it has more values than any job has");
    let twice = br#"{"prompt":"a","prompt":"b","subject":{"image":"a"}}"#;
    assert!(Job::parse(twice).unwrap_err().to_string().starts_with("duplicate field `prompt`"));
    let deep = "[".repeat(100_000);
    assert!(Job::parse(deep.as_bytes()).unwrap_err().to_string().contains("deeper than 32 levels"));
    let huge = vec![b' '; limits::MAX_JOB_JSON_BYTES + 1];
    assert!(Job::parse(&huge).unwrap_err().to_string().contains("the limit is 8388608"));
    let long_name = format!("{{\"{}\":1}}", "x".repeat(1_000_000));
    assert!(Job::parse(long_name.as_bytes()).unwrap_err().to_string().len() < 500);
    let long_value = with(json!({ "lane": "x".repeat(1_000_000) }));
    assert!(parse(&long_value).unwrap_err().to_string().len() < 500);
}

#[test]
fn a_job_without_an_id_gets_the_same_one_every_time() {
    let first = good(json!({}));
    assert_eq!(first.id, good(json!({ "seeds": { "count": 1 }, "lane": "standard" })).id, "defaults change nothing");
    assert_ne!(first.id, good(json!({ "prompt": "another" })).id);
    assert_eq!(
        first.id.as_str(),
        "job-2e7103075aeb6aa51066816dca93ffca",
        "a rerun by a later version finds the results"
    );
}

#[test]
fn a_byte_order_mark_is_no_fault() {
    let text = format!("\u{feff}{}", with(json!({})));
    assert!(Job::parse(text.as_bytes()).is_ok());
}

#[test]
fn the_schema_is_published_as_it_stands() {
    // Sorted, because the order of a map depends on a feature of serde_json that any crate may switch on.
    insta::with_settings!({ sort_maps => true }, { insta::assert_json_snapshot!("job_schema", Job::schema()) });
}

proptest! {
    /// For any input the parser returns; what it accepts, the schema accepts, and parsing it again gives the same job.
    #[test]
    fn every_text_is_answered(text in "\\PC{0,200}") {
        prop_assert!(Job::parse(text.as_bytes()).is_err());
    }

    #[test]
    fn accepted_jobs_pass_the_schema_and_come_back(
        prompt in "\\PC{1,40}",
        count in 0_u32..70,
        text in -1.0_f64..40.0,
        ratio in "[0-9:.]{1,5}",
    ) {
        let job = with(json!({
            "prompt": prompt, "seeds": { "count": count }, "guidance": { "text": text }, "aspect_ratio": ratio,
        }));
        if let Ok(parsed) = parse(&job) {
            prop_assert!(SCHEMA.is_valid(&job), "the schema refuses {}", job);
            let written = serde_json::to_value(&parsed).unwrap();
            prop_assert!(SCHEMA.is_valid(&written));
            prop_assert_eq!(parse(&written).unwrap(), parsed);
        }
    }
}
