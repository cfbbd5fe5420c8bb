//! A client's job: read, with and without defaults, written and read again.

use echogen_protocol::{Job, JobId, StageTask};

use crate::message;

pub(crate) fn run(data: &[u8]) {
    if let Some(outline) = Job::unreadable_job(data) {
        assert!(outline.id.as_str().len() <= 128);
    }
    let defaults = serde_json::json!({ "seeds": { "count": 3 }, "guidance": { "text": 4.0 }, "top_k": 1 });
    message::check(Job::parse_with(data, defaults.as_object().unwrap_or(&serde_json::Map::new())));
    let Some(job) = message::check(Job::parse(data)) else { return };
    let written = job.to_json();
    assert_eq!(Job::parse(&written).as_ref(), Ok(&job), "a job read back is the job");
    let anew = |job: Job| Job { id: JobId::default(), ..job }.with_id().id;
    assert_eq!(anew(Job::parse(&written).unwrap_or_else(|_| job.clone())), anew(job), "and so is its id");
}
