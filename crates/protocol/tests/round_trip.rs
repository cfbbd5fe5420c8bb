//! What is written is read back exactly, to the last bit of every number: ids that are derived anew must be equal.

use echogen_protocol::{
    BoundingBox, ContentHash, CutOut, EncodeTask, Guidance, Job, JobId, JobResult, MaskRuns, PerScale, Progress,
    SampleTask, StageTask, SubjectArea,
    json::{self, Bounds},
};
use proptest::prelude::*;

fn per_scale(number: impl Strategy<Value = f64> + Clone + 'static) -> impl Strategy<Value = PerScale> {
    prop_oneof![number.clone().prop_map(PerScale::All), prop::collection::vec(number, 1..=13).prop_map(PerScale::Each)]
}

/// Any finite number.
fn finite() -> impl Strategy<Value = f64> + Clone {
    any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |number| number.is_finite())
}

/// Any number from 0 to `most` whose digits are as random as its magnitude.
fn up_to(most: f64) -> impl Strategy<Value = f64> + Clone {
    prop_oneof![
        (0.0..=most).prop_filter("above 0", |number| *number > 0.0),
        any::<u64>()
            .prop_map(f64::from_bits)
            .prop_map(f64::abs)
            .prop_filter("in range", move |x| *x > 0.0 && *x <= most)
    ]
}

fn job() -> impl Strategy<Value = Job> {
    let parts = (per_scale(up_to(30.0)), per_scale(up_to(30.0)), per_scale(up_to(100.0)), up_to(1.0), "\\PC{1,20}");
    parts.prop_map(|(text, subject, temperature, top_p, prompt)| {
        let mut job = Job::new("dog.png".into(), format!("a {prompt}"));
        job.guidance = Guidance { text: Some(text), subject: Some(subject) };
        (job.temperature, job.top_p) = (Some(temperature), Some(top_p));
        job.with_id()
    })
}

/// Any area: all, a box, or a mask of any runs.
fn area() -> impl Strategy<Value = SubjectArea> {
    let ends = (any::<u32>(), any::<u32>()).prop_filter("an area", |(from, to)| from < to);
    let area = (ends.clone(), ends)
        .prop_map(|((left, right), (top, bottom))| SubjectArea::Box(BoundingBox { left, top, right, bottom }));
    let runs = (any::<bool>(), prop::collection::vec(1_u32..200_000, 2..300));
    let mask = runs.prop_map(|(begins_inside, runs)| {
        let runs: Vec<u32> = begins_inside.then_some(0).into_iter().chain(runs).collect();
        SubjectArea::Mask(MaskRuns::new(runs.iter().sum(), 1, runs).expect("a mask"))
    });
    prop_oneof![Just(SubjectArea::Whole), area, mask]
}

fn bits(numbers: &PerScale) -> Vec<u64> {
    match numbers {
        PerScale::All(number) => vec![number.to_bits()],
        PerScale::Each(numbers) => numbers.iter().map(|number| number.to_bits()).collect(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_job_read_back_is_the_job(job in job()) {
        let read = Job::parse(&job.to_json()).unwrap();
        prop_assert_eq!(&read, &job);
        let anew = Job { id: JobId::default(), ..read }.with_id();
        prop_assert_eq!(anew.id, job.id);
    }

    #[test]
    fn a_task_read_back_is_the_task(job in job(), seconds in finite(), area in area()) {
        let mut progress = Progress::default();
        progress.timings.insert("sampler".to_owned(), seconds);
        let cut_out = CutOut { image: ContentHash::of(b"dog"), area };
        let task = EncodeTask::new(job.clone(), cut_out.clone(), progress.clone());
        prop_assert_eq!(EncodeTask::parse(&task.to_json()).unwrap(), task);
        let task = SampleTask { job, encoded_subject: "subjects/a".to_owned(), cut_out: Some(cut_out), progress };
        prop_assert_eq!(SampleTask::parse(&task.to_json()).unwrap(), task);
    }

    #[test]
    fn numbers_of_scales_are_read_back_to_the_last_bit(numbers in per_scale(finite())) {
        let json = serde_json::to_vec(&numbers).unwrap();
        prop_assert_eq!(bits(&json::read::<PerScale>(&json, &Bounds::MESSAGE).unwrap()), bits(&numbers));
    }

    #[test]
    fn a_result_read_back_is_the_result(job in job(), seconds in finite(), score in finite()) {
        let mut result = JobResult::completed(&job, Vec::new(), "1.2.3", jiff::Timestamp::UNIX_EPOCH);
        result.timings.insert("sampler".to_owned(), seconds);
        let area = BoundingBox { left: 0, top: 0, right: 1, bottom: 1 };
        result.subject = Some(echogen_protocol::SubjectFound {
            image: ContentHash::of(b"dog"),
            name: None,
            bounding_box: area,
            score: Some(score),
            how: echogen_protocol::FoundBy::Detector,
        });
        let json = serde_json::to_vec_pretty(&result).unwrap();
        prop_assert_eq!(json::read::<JobResult>(&json, &Bounds::MESSAGE).unwrap(), result);
    }

    /// Numbers as clients write them, with more digits than a number holds.
    #[test]
    fn a_number_of_many_digits_is_the_same_after_it_was_read_once(text in "[1-9][0-9]{0,40}(\\.[0-9]{1,40})?(e-?[0-9]{1,2})?") {
        let Ok(first) = json::read::<PerScale>(text.as_bytes(), &Bounds::MESSAGE) else { return Ok(()) };
        let written = serde_json::to_vec(&first).unwrap();
        prop_assert_eq!(json::read::<PerScale>(&written, &Bounds::MESSAGE).unwrap(), first);
        prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), bits(&json::read(text.as_bytes(), &Bounds::MESSAGE).unwrap())[0]);
    }
}
