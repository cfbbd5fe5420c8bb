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
use echogen_protocol::{Job, Parameters, PixelBudget, SubjectKeys};
use echogen_sampler::{ImageSampler, SampleError, SampleRequest, Sampled};
use echogen_segmenter::GivenBox;
use echogen_service::{JobFields, LoadedNetworks};
use echogen_testkit::parameters;
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
        Ok(parameters(job, "paint", 2))
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
        let bench = Self(folder);
        bench.write(lines);
        bench
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
        let jobs = arguments.jobs.clone().unwrap();
        let mut source = JobsFile::open(&jobs, JobFields::new()).await.unwrap();
        let running = Running { in_flight: 16, ..Running::of_batch(&arguments, false, source.total()) };
        run(networks, &mut source, running, (&arguments.run, &ServiceConfig::default()), stop).await.unwrap()
    }

    /// Replaces the jobs file.
    fn write(&self, lines: impl IntoIterator<Item = String>) {
        let text = lines.into_iter().map(|line| line + "\n").collect::<String>();
        std::fs::write(self.path().join("jobs.jsonl"), text).unwrap();
    }

    fn out(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join("out").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
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
    assert!(bench.path().join("out/contact-sheet.png").is_file());
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

#[tokio::test]
async fn a_smaller_run_leaves_the_sheet_and_the_table_of_a_larger_one() {
    let bench = Bench::new((1..=90).map(line));
    let painter = Arc::new(Painter::default());
    let tally = bench.run_all(&painter).await;
    assert_eq!((tally.sheet_pages, tally.hidden), (3, 0), "every job is on a page");
    let kept = ["contact-sheet.png", "contact-sheet-page-3.png", "results.csv"];
    let before = kept.map(|name| bench.out(name));
    bench.write([line(91)]);
    let tally = bench.run_all(&painter).await;
    assert_eq!(tally.table, Some(bench.path().join("out/results-2.csv")));
    assert_eq!(tally.contact_sheet, Some(bench.path().join("out/contact-sheet-run-2.png")));
    assert!(before == kept.map(|name| bench.out(name)), "the larger run's files are as they were");
    bench.write((1..=92).map(line));
    let tally = bench.run_all(&painter).await;
    assert_eq!(tally.table, Some(bench.path().join("out/results.csv")), "a run with all jobs goes on with the first");
    assert_eq!(String::from_utf8(bench.out("results.csv")).unwrap().lines().count(), 93);
}

#[tokio::test]
async fn a_changed_prompt_under_the_same_id_is_a_failure_and_not_a_wrong_caption() {
    let bench = Bench::new((1..=2).map(line));
    let painter = Arc::new(Painter::default());
    bench.run_all(&painter).await;
    bench.write([line(1).replace("take 1", "changed"), line(2)]);
    let tally = bench.run_all(&painter).await;
    assert_eq!((tally.cached, tally.failed), (1, 1));
    assert!(tally.repeated()[0].contains("line 1: job job-1: id: job-1 is taken by a job of other content"));
    let table = String::from_utf8(bench.out("results.csv")).unwrap();
    let rows: Vec<&str> = table.lines().skip(1).collect();
    assert!(rows[0].starts_with("1,job-1,failed,") && rows[0].contains("taken by a job of other content"), "{table}");
    assert!(rows[1].starts_with("2,job-2,cached,") && rows[1].contains("\"a dog, take 2\""), "{table}");
}
