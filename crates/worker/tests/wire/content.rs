//! What the samples say: one value of each kind of message, with every field of it.

use echogen_protocol::*;
use echogen_worker::JobState;
use jiff::Timestamp;

pub(crate) fn moment() -> Timestamp {
    "2026-08-01T12:00:00.5Z".parse().expect("a moment")
}

pub(crate) fn hash(of: &str) -> ContentHash {
    ContentHash::of(of.as_bytes())
}

/// A job that names every field.
pub(crate) fn job() -> Job {
    Job {
        again: 0,
        id: JobId("order-7.b".to_owned()),
        tenant: Some("acme".to_owned()),
        subject: Subject {
            image: ImageSource::stored(hash("picture")),
            name: Some("corgi".to_owned()),
            bounding_box: Some(BoundingBox { left: 1, top: 2, right: 30, bottom: 40 }),
            point: None,
            mask: MaskMode::Sam,
            if_not_found: IfNotFound::WholeImage,
        },
        prompt: "a corgi on a beach\nat \"noon\", in größter Hitze".to_owned(),
        negative_prompt: Some("rain".to_owned()),
        seeds: Seeds::List(vec![1, 2, u64::MAX]),
        aspect_ratio: "16:9".parse().expect("a ratio"),
        pixel_budget: Some(PixelBudget::M0_25),
        guidance: Guidance { text: Some(PerScale::All(2.5)), subject: Some(PerScale::Each(vec![1.0, 2.5, 3.0])) },
        temperature: Some(PerScale::All(2.0)),
        top_k: Some(900),
        top_p: Some(0.97),
        output: OutputOptions {
            format: OutputFormat::Jpeg,
            quality: Some(85),
            destination: Some("results/today".to_owned()),
        },
        lane: Lane::Bulk,
        deadline: Some("2030-12-31T23:59:00Z".parse().expect("a moment")),
        callback: Some("https://example.org/done".to_owned()),
        previews: 0,
        metadata: [("order".to_owned(), "7".to_owned()), ("note".to_owned(), "line one\nline two".to_owned())].into(),
    }
}

/// A job that is to run again.
pub(crate) fn repeated_job() -> Job {
    Job { again: 1_785_585_600_500, ..least_job() }
}

/// A job that names nothing but what it must, and a point.
pub(crate) fn least_job() -> Job {
    let mut job = Job { id: JobId("least".to_owned()), ..Job::new("dog.png".into(), "a dog") };
    job.subject.point = Some(Point { x: 3, y: 4 });
    job.seeds = Seeds::Range { first: 7, count: 2 };
    job
}

pub(crate) fn subject() -> SubjectFound {
    SubjectFound {
        image: hash("picture"),
        name: Some("corgi".to_owned()),
        bounding_box: BoundingBox { left: 1, top: 2, right: 30, bottom: 40 },
        score: Some(0.75),
        how: FoundBy::Detector,
    }
}

pub(crate) fn progress() -> Progress {
    Progress {
        timings: [("dispatcher".to_owned(), 0.25), ("segmenter".to_owned(), 1.5)].into(),
        cached: [("dispatcher".to_owned(), false), ("segmenter".to_owned(), true)].into(),
        models: [("detector".to_owned(), "ab".repeat(32))].into(),
        subject: Some(subject()),
    }
}

pub(crate) fn segment_task() -> SegmentTask {
    SegmentTask { job: job(), image: hash("picture"), progress: Progress::default() }
}

pub(crate) fn encode_task() -> EncodeTask {
    // Of a sender that stored cut-outs.
    EncodeTask { job: job(), cutout: Some(hash("cut-out")), cut_out: None, progress: progress() }
}

pub(crate) fn encode_task_of_pixels() -> EncodeTask {
    EncodeTask::new(job(), CutOut { image: hash("picture"), area: mask() }, progress())
}

pub(crate) fn sample_task() -> SampleTask {
    let (encoded_subject, progress) = ("subjects/ab/abcd".to_owned(), progress());
    SampleTask { job: least_job(), encoded_subject, cut_out: None, progress }
}

pub(crate) fn sample_task_of_pixels() -> SampleTask {
    let area = SubjectArea::Box(subject().bounding_box);
    SampleTask { cut_out: Some(CutOut { image: hash("picture"), area }), ..sample_task() }
}

fn mask() -> SubjectArea {
    SubjectArea::Mask(MaskRuns::new(40, 50, vec![150, 20, 22, 16, 24, 16, 1_752]).expect("a mask"))
}

pub(crate) fn segmentation() -> Segmentation {
    Segmentation { subject: subject(), area: mask() }
}

pub(crate) fn parameters() -> Parameters {
    Parameters {
        bundle: "mini".to_owned(),
        prompt: "a corgi on a beach".to_owned(),
        negative_prompt: Some("rain".to_owned()),
        aspect_ratio: "16:9".to_owned(),
        pixel_budget: PixelBudget::M0_25,
        width: 672,
        height: 384,
        text_guidance: PerScale::All(2.5),
        subject_guidance: PerScale::Each(vec![1.0, 2.5, 3.0]),
        temperature: PerScale::All(2.0),
        top_k: 900,
        top_p: 0.97,
        format: OutputFormat::Jpeg,
        quality: Some(85),
    }
}

pub(crate) fn completed() -> JobResult {
    let image = |index: usize, seed| ResultImage {
        key: format!("results/today/order-7.b/image-{index}.jpg"),
        seed,
        width: 672,
        height: 384,
        sha256: hash("image"),
        safety: None,
    };
    JobResult {
        content: None,
        again: 0,
        id: JobId("order-7.b".to_owned()),
        status: JobStatus::Completed,
        error: None,
        images: vec![image(0, 1), image(1, 2)],
        withheld: Vec::new(),
        seeds: vec![1, 2],
        parameters: Some(parameters()),
        subject: Some(subject()),
        models: [("transformer".to_owned(), "cd".repeat(32))].into(),
        version: "0.1.0".to_owned(),
        timings: [("sampler".to_owned(), 4.5), ("sampler.text".to_owned(), 0.5)].into(),
        cached: [("sampler".to_owned(), false)].into(),
        usage: None,
        finished: moment(),
        metadata: [("order".to_owned(), "7".to_owned())].into(),
    }
}

/// With the fields that came with previews, usage and the content gate.
pub(crate) fn completed_behind_a_gate() -> JobResult {
    let mut result = completed();
    result.images.truncate(1);
    result.images[0].safety = Some(Safety { verdict: SafetyVerdict::Allowed });
    result.withheld = vec![WithheldImage { index: 1, seed: 2, reason: "no".to_owned() }];
    result.usage = Some(Usage { images: 1, megapixels: 0.258048, device_seconds: 2.25, previews: 4 });
    result
}

/// A job that asks for previews.
pub(crate) fn previewed_job() -> Job {
    Job { previews: 4, ..least_job() }
}

/// A job whose pictures are sampled.
pub(crate) fn sampling_state() -> JobState {
    JobState {
        state: EventKind::Sampling,
        progress: Some(ScaleProgress { scale: 3, scales: 20 }),
        previews: vec![Preview { image: 0, scale: 3 }],
        ..job_state()
    }
}

pub(crate) fn failed() -> JobResult {
    JobResult {
        status: JobStatus::Failed,
        error: Some(Failure { kind: FailureKind::BadImage, message: "the picture is empty".to_owned() }),
        images: Vec::new(),
        parameters: None,
        subject: None,
        models: Default::default(),
        timings: Default::default(),
        cached: Default::default(),
        metadata: Default::default(),
        ..completed()
    }
}

pub(crate) fn event() -> JobEvent {
    JobEvent::of_result(&failed()).in_trace(Some(TraceContext::new(0xabc, 0xdef)))
}

pub(crate) fn notify_task() -> NotifyTask {
    // Of a sender that published the event itself.
    notify_task_of_all().only(Notice::Callback)
}

pub(crate) fn notify_task_of_all() -> NotifyTask {
    NotifyTask::new(event(), Some("https://example.org/done".to_owned()), true)
}

pub(crate) fn notify_task_of_tenant() -> NotifyTask {
    notify_task_of_all().of_tenant(Some("acme".to_owned()))
}

pub(crate) fn reply_to() -> ReplyTo {
    ReplyTo { queue: "answers".to_owned(), correlation_id: Some("7".to_owned()) }
}

pub(crate) fn job_state() -> JobState {
    JobState {
        state: EventKind::Retrying,
        stage: Some("encoder".to_owned()),
        attempt: 2,
        result_key: "results/today/order-7.b/result.json".to_owned(),
        trace_id: Some(TraceContext::new(0xabc, 0xdef).trace_id()),
        reply_to: Some(reply_to()),
        callback: Some("https://example.org/done".to_owned()),
        tenant: None,
        content: None,
        again: 0,
        progress: None,
        previews: Vec::new(),
        updated: moment(),
    }
}

/// The state of a job that runs again, with what it asks for.
pub(crate) fn repeated_state() -> JobState {
    JobState { content: Some(hash("content")), again: 1_785_585_600_500, ..job_state() }
}

/// Headers that came after the first ones.
pub(crate) fn later_headers() -> TaskHeaders {
    TaskHeaders {
        accepted: Some(moment()),
        content: Some(hash("content")),
        cost: Some(3),
        kilopixels: Some(1_049),
        ..TaskHeaders::default()
    }
}

pub(crate) fn headers() -> TaskHeaders {
    TaskHeaders {
        failures: 3,
        first_seen: Some(moment()),
        accepted: None,
        last_error: Some("store is full".to_owned()),
        traceparent: Some(TraceContext::new(0xabc, 0xdef)),
        job: Some("order-7.b".to_owned()),
        reply_to: Some(reply_to()),
        content: None,
        cost: None,
        kilopixels: None,
        settings: None,
        stage: Some("sampler".to_owned()),
        redeliveries: 2,
    }
}
