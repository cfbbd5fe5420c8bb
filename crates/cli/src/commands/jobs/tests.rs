//! Tests of whole batches through the real stages, with networks that paint at once.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use echogen_encoder::{EncodeError, SubjectEncoder};
use echogen_imaging::{ImageFormat, RgbImage, encode_image};
use echogen_protocol::{Job, Parameters, PerScale, PixelBudget, SubjectKeys};
use echogen_sampler::{ImageSampler, SampleError, SampleRequest, Sampled};
use echogen_segmenter::GivenBox;
use echogen_service::{JobFields, LoadedNetworks};
use tempfile::TempDir;

use super::*;
use crate::{arguments::Command, command_line::Line};

#[derive(Debug, Default)]
struct Painter {
    encoded: AtomicUsize,
    sampled: AtomicUsize,
    /// A number of pictures, and the token that is cancelled after them.
    stop_after: Option<(usize, CancellationToken)>,
}

#[async_trait]
impl SubjectEncoder for Painter {
    async fn encode(&self, _: Arc<RgbImage>, _: u32, _: tokio::time::Instant) -> Result<Vec<u8>, EncodeError> {
        self.encoded.fetch_add(1, Ordering::SeqCst);
        Ok(b"subject".to_vec())
    }

    fn dtype(&self) -> &str {
        "f32"
    }

    fn models(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

#[async_trait]
impl ImageSampler for Painter {
    fn plan(&self, job: &Job) -> Result<Parameters, SampleError> {
        let all = PerScale::All(1.0);
        Ok(Parameters {
            bundle: "paint".into(),
            prompt: job.prompt.clone(),
            negative_prompt: None,
            aspect_ratio: job.aspect_ratio.to_string(),
            pixel_budget: PixelBudget::M0_06,
            width: 2,
            height: 2,
            text_guidance: all.clone(),
            subject_guidance: all.clone(),
            temperature: all,
            top_k: 1,
            top_p: 1.0,
            format: job.output.format,
            quality: job.output.quality,
        })
    }

    async fn sample(&self, request: SampleRequest) -> Result<Sampled, SampleError> {
        let sampled = self.sampled.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some((limit, stop)) = &self.stop_after
            && sampled >= *limit
        {
            stop.cancel();
        }
        (0..request.seeds.len()).for_each(|index| request.send(index, RgbImage::new(2, 2)));
        Ok(Sampled::default())
    }

    fn models(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }
}

/// A folder with a picture `dog.png` and a jobs file.
struct Bench(TempDir);

impl Bench {
    fn new(lines: impl IntoIterator<Item = String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let png = encode_image(&RgbImage::new(8, 8), ImageFormat::Png, 100).unwrap();
        std::fs::write(folder.path().join("dog.png"), png).unwrap();
        let text = lines.into_iter().map(|line| line + "\n").collect::<String>();
        std::fs::write(folder.path().join("jobs.jsonl"), text).unwrap();
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn arguments(&self) -> BatchArguments {
        let (jobs, out) = (self.path().join("jobs.jsonl"), self.path().join("out"));
        let given = ["echogen", "batch", jobs.to_str().unwrap(), "--out", out.to_str().unwrap(), "--attempts", "2"];
        match Line::parse(&given.map(Into::into)).unwrap().arguments.command {
            Command::Batch(arguments) => *arguments,
            other => panic!("not a batch: {other:?}"),
        }
    }

    async fn run(&self, painter: &Arc<Painter>, stop: &CancellationToken) -> Tally {
        let arguments = self.arguments();
        let subjects = SubjectKeys {
            finders: String::new(),
            encoders: "painter".into(),
            dtypes: vec!["f32".into()],
            default_pixel_budget: PixelBudget::M0_06,
            resolutions: [(PixelBudget::M0_06, 256)].into(),
        };
        let (detector, encoder, sampler) = (Arc::new(GivenBox), painter.clone(), painter.clone());
        let networks = LoadedNetworks { name: "paint".into(), subjects, detector, encoder, sampler };
        let mut source = JobsFile::open(&arguments.jobs, JobFields::new()).await.unwrap();
        let reporter = Reporter::for_many_jobs(false, false, source.total());
        run(networks, &mut source, reporter, 16, (&arguments.run, &ServiceConfig::default()), stop).await.unwrap()
    }

    async fn run_all(&self, painter: &Arc<Painter>) -> Tally {
        self.run(painter, &CancellationToken::new()).await
    }
}

fn line(number: usize) -> String {
    format!(r#"{{"id": "job-{number}", "subject": {{"image": "dog.png"}}, "prompt": "a dog, take {number}"}}"#)
}

#[tokio::test]
async fn one_bad_line_among_a_thousand_keeps_nothing_from_running() {
    let bench =
        Bench::new((1..=1_000).map(|number| if number == 500 { "{\"prompt\": 7}".into() } else { line(number) }));
    let painter = Arc::new(Painter::default());
    let tally = bench.run_all(&painter).await;
    assert_eq!((tally.done, tally.failed, tally.cached), (999, 1, 0));
    assert!(bench.path().join("out/job-1000/image-0.png").is_file());
    assert!(bench.path().join("out").join(contact_sheet::KEY).is_file());
    assert_eq!(painter.encoded.load(Ordering::SeqCst), 1, "one subject is encoded once");
}

#[tokio::test]
async fn a_second_run_finds_everything_done() {
    let bench = Bench::new((1..=5).map(line));
    let painter = Arc::new(Painter::default());
    bench.run_all(&painter).await;
    let tally = bench.run_all(&painter).await;
    assert_eq!((tally.done, tally.failed, tally.cached), (0, 0, 5));
    assert_eq!(painter.sampled.load(Ordering::SeqCst), 5);
    assert!(tally.contact_sheet.is_some(), "the sheet shows what was done before too");
}

#[tokio::test]
async fn a_result_without_its_picture_is_made_again() {
    let bench = Bench::new((1..=2).map(line));
    let painter = Arc::new(Painter::default());
    bench.run_all(&painter).await;
    std::fs::remove_file(bench.path().join("out/job-2/image-0.png")).unwrap();
    let tally = bench.run_all(&painter).await;
    assert_eq!((tally.done, tally.cached), (1, 1));
    assert!(bench.path().join("out/job-2/image-0.png").is_file());
}

#[tokio::test]
async fn a_job_that_failed_is_tried_again_by_the_next_run() {
    let bench = Bench::new([line(1).replace("dog.png", "late.png"), line(2)]);
    let painter = Arc::new(Painter::default());
    let tally = bench.run_all(&painter).await;
    assert_eq!((tally.done, tally.failed), (1, 1));
    assert!(tally.first_error.unwrap().contains("late.png"));
    std::fs::copy(bench.path().join("dog.png"), bench.path().join("late.png")).unwrap();
    let tally = bench.run_all(&painter).await;
    assert_eq!((tally.done, tally.failed, tally.cached), (1, 0, 1));
}

#[tokio::test]
async fn an_interrupted_run_keeps_what_it_finished_and_the_next_one_goes_on() {
    let bench = Bench::new((1..=60).map(line));
    let stop = CancellationToken::new();
    let painter = Arc::new(Painter { stop_after: Some((3, stop.clone())), ..Painter::default() });
    let first = bench.run(&painter, &stop).await;
    assert!(first.interrupted);
    assert!(first.done >= 3 && first.done < 60, "{first:?}");
    let painter = Arc::new(Painter::default());
    let second = bench.run_all(&painter).await;
    assert_eq!((second.done + second.cached, second.failed), (60, 0));
    assert_eq!(second.cached, first.done, "what was reported done is not done again");
    assert_eq!(painter.encoded.load(Ordering::SeqCst), 0, "nor is the subject encoded again");
}

#[tokio::test]
async fn a_repeated_line_is_one_job_and_a_repeated_id_is_a_fault() {
    let bench = Bench::new([line(1), line(1), line(1).replace("take 1", "another")]);
    let tally = bench.run_all(&Arc::new(Painter::default())).await;
    assert_eq!((tally.done, tally.cached, tally.failed), (1, 1, 1));
    assert!(tally.first_error.unwrap().contains("is already used on line 1"));
}

#[tokio::test]
async fn a_result_that_cannot_be_written_fails_its_job_and_no_other() {
    let bench = Bench::new((1..=3).map(line));
    std::fs::create_dir(bench.path().join("out")).unwrap();
    // A file blocks the path of the second job's folder.
    std::fs::write(bench.path().join("out/job-2"), "in the way").unwrap();
    let tally = bench.run_all(&Arc::new(Painter::default())).await;
    assert_eq!((tally.done, tally.failed), (2, 1));
    assert!(tally.first_error.unwrap().contains("job-2"));
}
