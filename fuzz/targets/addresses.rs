//! Addresses, keys and other short texts of a job.

use echogen_protocol::{
    AspectRatio, ContentHash, ImageLocation, ImageSource, Job, JobId, Lane, StageName, TraceContext, check_object_key,
};

use crate::message;

pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let text = text.as_ref();
    let source = ImageSource::from(text);
    if let Some(ImageLocation::Https(url) | ImageLocation::S3(url)) = message::check(source.location()) {
        assert!(url.username().is_empty() && url.password().is_none() && url.host_str().is_some());
    }
    assert!(format!("{source} {source:?}").chars().count() < 2_000);
    message::check(text.parse::<AspectRatio>());
    message::check(text.parse::<ContentHash>());
    message::check(text.parse::<TraceContext>());
    message::check(text.parse::<Lane>());
    message::check(text.parse::<StageName>());
    if message::check(check_object_key(text)).is_some() {
        assert!(!text.split('/').any(|part| part.is_empty() || part.starts_with('.')));
    }
    let job = Job::new("dog.png".into(), "a dog");
    message::check(Job { id: JobId(text.to_owned()), ..job.clone() }.validate());
    message::check(Job { callback: Some(text.to_owned()), ..job.clone() }.with_id().validate());
    message::check(Job { prompt: text.to_owned(), tenant: Some(text.to_owned()), ..job }.with_id().validate());
}
