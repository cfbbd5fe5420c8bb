//! Tests of the inference thread, with networks that paint seeds, fail and wait on command.

use std::{
    sync::{Mutex, mpsc as sync_mpsc},
    time::Duration,
};

use candle_core::Error;
use echogen_protocol::{Job, Lane, Parameters};
use tokio::{sync::mpsc, task::JoinSet};

use super::*;
use crate::{CloseReason, Made, PreviewRequest, Previews, ScaleDone, Step};

/// Paints every picture in its seed; waits for a message before each scale.
struct FakeNetworks {
    gate: sync_mpsc::Receiver<()>,
    batches: Arc<Mutex<Vec<Vec<u64>>>>,
    /// The seeds of each scale and of each decoded picture.
    scales: Arc<Mutex<Vec<Vec<u64>>>>,
}

/// Seeds that cause failures.
const FAILS: u64 = 100;
const PANICS: u64 = 101;
const FAILS_TO_DECODE: u64 = 102;
const HAS_NO_PREVIEW: u64 = 103;

/// Pictures of a batch that the device has memory for.
const MEMORY: usize = 20;

impl BatchNetworks for FakeNetworks {
    type Subject = ();
    type Sampling = Vec<u64>;
    type Codes = u64;

    fn prepare(&mut self, request: &SampleRequest) -> Result<(), SampleError> {
        if request.subject.is_empty() { Err(SampleError::BadSubject("it is empty".into())) } else { Ok(()) }
    }

    fn start(&mut self, parts: &[Part<'_, ()>], _: &Schedule) -> Result<Vec<u64>, SampleError> {
        let seeds: Vec<u64> = parts.iter().flat_map(|part| part.seeds.clone()).collect();
        self.batches.lock().unwrap().push(seeds.clone());
        if seeds.len() > MEMORY {
            let error = Error::Cuda("DriverError(CUDA_ERROR_OUT_OF_MEMORY)".into());
            return Err(SampleError::Failed(error.into()));
        }
        Ok(seeds)
    }

    fn step(&mut self, seeds: &mut Vec<u64>) -> Result<(), SampleError> {
        self.gate.recv().unwrap();
        self.scales.lock().unwrap().push(seeds.clone());
        Ok(())
    }

    fn remove(&mut self, seeds: &mut Vec<u64>, pictures: Range<usize>) {
        seeds.drain(pictures);
    }

    fn finish(&mut self, seeds: &Vec<u64>) -> Result<Vec<u64>, SampleError> {
        assert!(!seeds.contains(&PANICS), "as told");
        if seeds.contains(&FAILS) {
            return Err(SampleError::Failed("as told".into()));
        }
        Ok(seeds.clone())
    }

    fn decode(&mut self, seed: &u64) -> Result<RgbImage, SampleError> {
        if *seed == FAILS_TO_DECODE {
            return Err(SampleError::Failed("as told".into()));
        }
        Ok(RgbImage::from_pixel(1, 1, [*seed as u8, 0, 0].into()))
    }

    fn preview(&mut self, seed: &u64, _: u32) -> Result<RgbImage, SampleError> {
        assert_ne!(*seed, HAS_NO_PREVIEW, "as told");
        Ok(RgbImage::from_pixel(1, 1, [0, *seed as u8, 0].into()))
    }
}

struct Bench {
    thread: Arc<BatchThread>,
    gate: sync_mpsc::Sender<()>,
    batches: Arc<Mutex<Vec<Vec<u64>>>>,
    scales: Arc<Mutex<Vec<Vec<u64>>>>,
    progress: mpsc::UnboundedSender<Step>,
    steps: mpsc::UnboundedReceiver<Step>,
    asked: JoinSet<Result<Vec<u64>, SampleError>>,
}

fn parameters() -> Parameters {
    echogen_testkit::parameters(&Job::new("dog.png".into(), "a dog"), "paint", 1)
}

/// A schedule of two scales.
fn schedule() -> Schedule {
    Schedule::new(vec![(1, 1), (2, 2)], (2, 2)).unwrap()
}

impl Bench {
    fn start(max_batch: usize) -> Self {
        let (gate, wait) = sync_mpsc::channel();
        let (batches, scales) = (Arc::default(), Arc::default());
        let config = SamplerConfig { max_batch, max_wait_seconds: 0.0, ..SamplerConfig::default() };
        let networks = FakeNetworks { gate: wait, batches: Arc::clone(&batches), scales: Arc::clone(&scales) };
        let thread = Arc::new(BatchThread::start("painter", &config, networks).unwrap());
        let (progress, steps) = mpsc::unbounded_channel();
        Self { thread, gate, batches, scales, progress, steps, asked: JoinSet::new() }
    }

    fn request(&self, seeds: &[u64]) -> SampleRequest {
        SampleRequest {
            parameters: parameters(),
            seeds: seeds.to_vec(),
            subject_key: "subjects/dog".into(),
            subject: "a dog".into(),
            lane: Lane::Standard,
            alone: false,
            progress: self.progress.clone(),
            made: mpsc::unbounded_channel().0,
            previews: None,
        }
    }

    fn ask_for(&mut self, request: SampleRequest) -> tokio::task::AbortHandle {
        self.ask_shape(request, schedule())
    }

    fn ask_shape(&mut self, mut request: SampleRequest, schedule: Schedule) -> tokio::task::AbortHandle {
        let thread = Arc::clone(&self.thread);
        let (made, mut images) = mpsc::unbounded_channel();
        request.made = made;
        self.asked.spawn(async move {
            thread.ask(request, schedule, 1, 100).await?;
            let mut all: Vec<Made> = std::iter::from_fn(|| images.try_recv().ok()).collect();
            all.sort_by_key(|made| made.index);
            Ok(all.iter().map(|made| u64::from(made.image.get_pixel(0, 0).0[0])).collect())
        })
    }

    fn ask(&mut self, seeds: &[u64]) -> tokio::task::AbortHandle {
        self.ask_for(self.request(seeds))
    }

    /// Waits until this many requests are waiting for the thread and it has started this many batches.
    async fn until(&self, waiting: usize, batches: usize) {
        let now = || (WAITING - self.thread.thread.free_slots(), self.batches.lock().unwrap().len());
        for _ in 0..5_000 {
            if now() == (waiting, batches) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{:?}", now());
    }

    fn scales(&self, scales: usize) {
        (0..scales).for_each(|_| self.gate.send(()).unwrap());
    }

    /// Waits until this many scales are sampled.
    async fn until_sampled(&self, scales: usize) {
        for _ in 0..5_000 {
            if self.scales.lock().unwrap().len() == scales {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("{:?}", self.scales.lock().unwrap());
    }

    async fn answers(&mut self) -> Vec<Result<Vec<u64>, String>> {
        let mut answers = Vec::new();
        while let Some(answer) = self.asked.join_next().await {
            match answer {
                Ok(answer) => answers.push(answer.map_err(|error| error.to_string())),
                Err(error) => assert!(error.is_cancelled()),
            }
        }
        answers.sort();
        answers
    }
}

#[tokio::test]
async fn what_comes_while_the_networks_are_busy_is_sampled_side_by_side() {
    let mut bench = Bench::start(16);
    bench.ask(&[1]);
    bench.until(0, 1).await;
    for seeds in [&[2, 3][..], &[4], &[5]] {
        bench.ask(seeds);
    }
    bench.until(3, 1).await;
    bench.scales(4);
    assert_eq!(bench.answers().await, [Ok(vec![1]), Ok(vec![2, 3]), Ok(vec![4]), Ok(vec![5])]);
    let batches = bench.batches.lock().unwrap().clone();
    assert_eq!((batches.len(), batches[1].len()), (2, 4));
    let counters = bench.thread.counters();
    assert_eq!((counters.batches(), counters.images(), counters.closed(CloseReason::Waited)), (2, 5, 2));
}

#[tokio::test]
async fn a_job_larger_than_a_batch_is_cut_and_shares_with_others() {
    let mut bench = Bench::start(4);
    bench.ask(&[1, 2, 3, 4, 5, 6]);
    bench.until(0, 1).await;
    bench.ask(&[7]);
    bench.until(1, 1).await;
    bench.scales(4);
    assert_eq!(bench.answers().await, [Ok(vec![1, 2, 3, 4, 5, 6]), Ok(vec![7])]);
    assert_eq!(*bench.batches.lock().unwrap(), [vec![1, 2, 3, 4], vec![5, 6, 7]]);
    let mut reported = Vec::new();
    while let Ok(step) = bench.steps.try_recv() {
        match step {
            Step::Scale(scale) => reported.push(Some((scale.done, scale.total))),
            Step::Waits => reported.push(None),
            Step::Decode => {}
        }
    }
    let scales = [Some((0, 12)), Some((4, 12)), None, Some((8, 12)), Some((0, 2)), Some((10, 12)), Some((1, 2))];
    assert_eq!(reported, scales, "each job gets its own progress, and hears when the rest waits for another batch");
}

/// Aborts the caller and waits until its task has ended, because the thread does not wait for the test.
async fn withdraw(caller: &tokio::task::AbortHandle) {
    caller.abort();
    while !caller.is_finished() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_job_that_is_withdrawn_leaves_its_batch_without_effect_on_the_others() {
    let mut bench = Bench::start(16);
    let first = bench.ask(&[1]);
    bench.until(0, 1).await;
    let (second, _third) = (bench.ask(&[2]), bench.ask(&[3]));
    let fourth = bench.ask(&[4]);
    bench.until(3, 1).await;
    // One caller is cancelled while its request waits and one while it is sampled; then the batch of one has nothing
    // left to do.
    withdraw(&fourth).await;
    withdraw(&first).await;
    bench.scales(1);
    bench.until(0, 2).await;
    withdraw(&second).await;
    bench.scales(2);
    assert_eq!(bench.answers().await, [Ok(vec![3])]);
    assert_eq!(bench.batches.lock().unwrap()[1].len(), 2);
    assert_eq!(bench.thread.counters().failed(), 0);
}

#[tokio::test]
async fn after_a_failed_batch_each_job_is_run_by_itself_and_only_the_one_at_fault_fails() {
    let panicked = "the painter thread panicked: as told";
    // A picture that is made before another fails to be decoded is not made again.
    for (seed, message, again) in [(FAILS, "as told", 3), (PANICS, panicked, 3), (FAILS_TO_DECODE, "as told", 2)] {
        let mut bench = Bench::start(16);
        bench.ask(&[1]);
        bench.until(0, 1).await;
        for seed in [2, seed, 4] {
            bench.ask(&[seed]);
        }
        bench.until(3, 1).await;
        bench.scales(10);
        let failure = Err(format!("the sampler failed: {message}"));
        assert_eq!(bench.answers().await, [Ok(vec![1]), Ok(vec![2]), Ok(vec![4]), failure]);
        let counters = bench.thread.counters();
        assert_eq!((counters.failed(), counters.closed(CloseReason::Alone)), (1, again));
    }
}

#[tokio::test]
async fn a_batch_without_memory_is_halved_until_it_fits_and_no_later_one_is_larger() {
    let mut bench = Bench::start(64);
    let seeds: Vec<u64> = (0..50).collect();
    bench.ask(&seeds);
    bench.scales(20);
    assert_eq!(bench.answers().await, [Ok(seeds.clone())]);
    let sizes = || bench.batches.lock().unwrap().iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(), [50, 25, 12, 12, 12, 12, 2]);
    assert_eq!(bench.thread.counters().failed(), 2);
    bench.ask(&seeds);
    bench.scales(20);
    assert_eq!(bench.answers().await, [Ok(seeds)]);
    let sizes = bench.batches.lock().unwrap().iter().skip(7).map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes, [12, 12, 12, 12, 2]);
}

/// A schedule of four scales, with many more tokens.
fn large() -> Schedule {
    Schedule::new(vec![(1, 1), (4, 4), (8, 8), (16, 16)], (16, 16)).unwrap()
}

#[tokio::test]
async fn an_interactive_request_waits_for_one_scale_of_a_large_batch() {
    let mut bench = Bench::start(16);
    bench.ask_shape(bench.request(&[1, 2]), large());
    bench.until(0, 1).await;
    bench.scales(1);
    bench.until_sampled(1).await;
    // The second scale of the large batch is running.
    bench.ask_for(SampleRequest { lane: Lane::Interactive, ..bench.request(&[3]) });
    bench.until(1, 1).await;
    bench.scales(5);
    assert_eq!(bench.answers().await, [Ok(vec![1, 2]), Ok(vec![3])]);
    let scales = bench.scales.lock().unwrap().clone();
    assert_eq!(scales, [vec![1, 2], vec![1, 2], vec![3], vec![3], vec![1, 2], vec![1, 2]]);
    let mut waits = Vec::new();
    while let Ok(step) = bench.steps.try_recv() {
        waits.push(step == Step::Waits);
    }
    assert_eq!(waits.iter().filter(|waits| **waits).count(), 1, "the large job hears once that it waits");
    assert_eq!(bench.thread.counters().closed(CloseReason::Waited), 2);
}

#[tokio::test]
async fn a_picture_is_decoded_at_a_time_and_an_interactive_request_comes_between() {
    let mut bench = Bench::start(16);
    let (made, mut images) = mpsc::unbounded_channel();
    let thread = Arc::clone(&bench.thread);
    let many = SampleRequest { made, ..bench.request(&[1, 2, 3]) };
    bench.asked.spawn(async move { thread.ask(many, schedule(), 1, 100).await.map(|_| Vec::new()) });
    bench.until(0, 1).await;
    bench.ask_for(SampleRequest { lane: Lane::Interactive, ..bench.request(&[4]) });
    bench.until(1, 1).await;
    // One scale of the first, both of the interactive one; the first is not decoded before its second.
    bench.scales(3);
    bench.until_sampled(3).await;
    assert!(images.try_recv().is_err());
    bench.scales(1);
    assert_eq!(bench.answers().await, [Ok(vec![]), Ok(vec![4])]);
    let made: Vec<usize> = std::iter::from_fn(|| images.try_recv().ok()).map(|made| made.index).collect();
    assert_eq!(made, [0, 1, 2]);
}

/// A request with so many previews of each picture, and where they arrive.
fn with_previews(request: SampleRequest, count: u32) -> (SampleRequest, mpsc::Receiver<Previews>) {
    let (made, previews) = mpsc::channel(8);
    (SampleRequest { previews: Some(PreviewRequest { count, made }), ..request }, previews)
}

/// The scales, and the seeds of the pictures, of all previews so far.
fn previewed(previews: &mut mpsc::Receiver<Previews>) -> Vec<(usize, Vec<u8>)> {
    let groups = std::iter::from_fn(|| previews.try_recv().ok());
    groups
        .map(|group| (group.scale, group.images.iter().map(|(_, image)| image.get_pixel(0, 0).0[1]).collect()))
        .collect()
}

#[tokio::test]
async fn previews_of_every_picture_are_made_at_their_scales_while_nothing_else_waits() {
    let mut bench = Bench::start(2);
    let (request, mut previews) = with_previews(bench.request(&[1, 2, 3]), 3);
    bench.ask_shape(request, large());
    bench.scales(2);
    bench.until_sampled(2).await;
    let group = previews.recv().await.unwrap();
    assert_eq!((group.progress, group.scale), (ScaleDone { done: 2, total: 12 }, 1));
    assert_eq!(group.images.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
    bench.scales(6);
    assert_eq!(bench.answers().await, [Ok(vec![1, 2, 3])], "the pictures are what they are without");
    let rest = [(2, vec![1, 2]), (3, vec![1, 2]), (1, vec![3]), (2, vec![3]), (3, vec![3])];
    assert_eq!(previewed(&mut previews), rest, "also of those that wait for the job's second batch");
}

#[tokio::test]
async fn previews_are_left_out_while_another_job_waits_or_shares_the_batch() {
    let mut bench = Bench::start(16);
    let (request, mut previews) = with_previews(bench.request(&[1]), 3);
    bench.ask_shape(request, large());
    bench.until(0, 1).await;
    bench.ask_shape(bench.request(&[2]), large());
    bench.until(1, 1).await;
    let (request, mut shared) = with_previews(bench.request(&[3]), 3);
    bench.ask_shape(request, large());
    bench.until(2, 1).await;
    bench.scales(8);
    assert_eq!(bench.answers().await, [Ok(vec![1]), Ok(vec![2]), Ok(vec![3])]);
    assert_eq!((previewed(&mut previews), previewed(&mut shared)), (vec![], vec![]));
}

#[tokio::test]
async fn a_preview_that_fails_or_has_no_receiver_is_left_out_and_no_picture_with_it() {
    let mut bench = Bench::start(16);
    let (request, mut previews) = with_previews(bench.request(&[1, HAS_NO_PREVIEW, 3]), 1);
    bench.ask_for(request);
    bench.scales(2);
    assert_eq!(bench.answers().await, [Ok(vec![1, HAS_NO_PREVIEW, 3])]);
    assert_eq!(previewed(&mut previews), [(1, vec![1, 3])]);
    let (request, previews) = with_previews(bench.request(&[4]), 3);
    drop(previews);
    bench.ask_shape(request, large());
    let (mut request, mut previews) = with_previews(bench.request(&[5]), 3);
    request.previews = request.previews.map(|wanted| PreviewRequest { made: mpsc::channel(1).0, ..wanted });
    bench.ask_shape(request, large());
    bench.scales(8);
    assert_eq!(bench.answers().await, [Ok(vec![4]), Ok(vec![5])]);
    assert_eq!(previewed(&mut previews), []);
    assert_eq!(bench.thread.counters().failed(), 0);
}

#[tokio::test]
async fn what_the_stage_has_not_stored_yet_keeps_later_previews_back() {
    let mut bench = Bench::start(16);
    let (made, mut previews) = mpsc::channel(1);
    let wanted = Some(PreviewRequest { count: 3, made });
    bench.ask_shape(SampleRequest { previews: wanted, ..bench.request(&[1]) }, large());
    bench.scales(4);
    assert_eq!(bench.answers().await, [Ok(vec![1])]);
    assert_eq!(previewed(&mut previews), [(1, vec![1])]);
}

#[tokio::test]
async fn every_picture_is_charged_with_its_share_of_its_batch() {
    let mut bench = Bench::start(16);
    let (made, mut images) = mpsc::unbounded_channel();
    let (thread, request) = (Arc::clone(&bench.thread), SampleRequest { made, ..bench.request(&[1, 2, 3]) });
    let before = Instant::now();
    bench.asked.spawn(async move { thread.ask(request, schedule(), 1, 100).await.map(|_| Vec::new()) });
    bench.until(0, 1).await;
    // The first scale lasts until then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    bench.scales(2);
    assert_eq!(bench.answers().await, [Ok(vec![])]);
    let took = before.elapsed();
    let times: Vec<Duration> = std::iter::from_fn(|| images.try_recv().ok()).map(|made| made.device_time).collect();
    assert_eq!(times.len(), 3);
    let sum: Duration = times.iter().sum();
    assert!(times.iter().all(|time| !time.is_zero()), "{times:?}");
    assert!(sum <= took, "{sum:?} of {took:?}: no time is charged twice");
}

#[tokio::test]
async fn a_request_that_is_withdrawn_frees_its_pictures_before_the_next_scale() {
    let mut bench = Bench::start(16);
    bench.ask_shape(bench.request(&[9]), schedule());
    bench.until(0, 1).await;
    let withdrawn = bench.ask_shape(bench.request(&[1, 2]), large());
    bench.ask_shape(bench.request(&[3]), large());
    bench.ask_shape(bench.request(&[4, 5]), large());
    bench.until(3, 1).await;
    bench.scales(3);
    bench.until_sampled(3).await;
    withdraw(&withdrawn).await;
    bench.scales(3);
    assert_eq!(bench.answers().await, [Ok(vec![3]), Ok(vec![4, 5]), Ok(vec![9])]);
    let scales = bench.scales.lock().unwrap().clone();
    assert_eq!(scales[2].len(), 5, "{scales:?}");
    // The scale that ran meanwhile still has them, the next one has not.
    assert!(scales[4..].iter().all(|seeds| *seeds == [3, 4, 5]), "{scales:?}");
}

#[tokio::test]
async fn a_failure_of_one_batch_leaves_others_in_progress_alone() {
    let mut bench = Bench::start(16);
    bench.ask_shape(bench.request(&[1, 2]), large());
    bench.until(0, 1).await;
    bench.ask_for(SampleRequest { lane: Lane::Interactive, ..bench.request(&[FAILS]) });
    bench.ask_for(SampleRequest { lane: Lane::Interactive, ..bench.request(&[5]) });
    bench.until(2, 1).await;
    bench.scales(20);
    let failure = Err("the sampler failed: as told".to_owned());
    assert_eq!(bench.answers().await, [Ok(vec![1, 2]), Ok(vec![5]), failure]);
    assert_eq!(bench.thread.counters().failed(), 1);
    assert_eq!(bench.batches.lock().unwrap().iter().filter(|seeds| **seeds == [1, 2]).count(), 1);
}

#[tokio::test]
async fn a_subject_that_cannot_be_read_fails_its_own_job() {
    let mut bench = Bench::start(2);
    bench.ask(&[1]);
    bench.until(0, 1).await;
    bench.ask_for(SampleRequest { subject: "".into(), ..bench.request(&[2, 3, 4]) });
    bench.until(1, 1).await;
    bench.ask(&[5]);
    bench.until(2, 1).await;
    bench.scales(4);
    let answers = bench.answers().await;
    assert!(answers[0] == Ok(vec![1]) && answers[1] == Ok(vec![5]), "{answers:?}");
    assert!(answers[2].as_ref().unwrap_err().starts_with("the encoded subject cannot be read"), "{answers:?}");
    assert_eq!(bench.batches.lock().unwrap().len(), 2, "nothing of it was begun");
}

#[tokio::test]
async fn a_job_that_must_be_alone_is() {
    let mut bench = Bench::start(16);
    bench.ask(&[1]);
    bench.until(0, 1).await;
    bench.ask_for(SampleRequest { alone: true, ..bench.request(&[2]) });
    bench.until(1, 1).await;
    bench.ask(&[3]);
    bench.until(2, 1).await;
    bench.scales(6);
    assert_eq!(bench.answers().await.len(), 3);
    assert_eq!(*bench.batches.lock().unwrap(), [[1], [2], [3]]);
}

#[tokio::test]
async fn after_the_end_nothing_is_begun_but_what_waits_is_finished() {
    let mut bench = Bench::start(16);
    bench.ask(&[1]);
    bench.until(0, 1).await;
    bench.ask(&[2]);
    bench.until(1, 1).await;
    let (thread, counters) = (Arc::clone(&bench.thread), Arc::clone(&bench.thread.counters));
    let mut stopped = Box::pin(thread.thread.stop());
    assert!(futures::poll!(&mut stopped).is_pending());
    let late = bench.thread.ask(bench.request(&[3]), schedule(), 1, 100).await.unwrap_err();
    assert_eq!(late.to_string(), "the sampler failed: the painter thread has stopped");
    bench.scales(4);
    assert_eq!(bench.answers().await, [Ok(vec![1]), Ok(vec![2])]);
    stopped.await;
    assert_eq!(counters.closed(CloseReason::Shutdown), 1);
}
