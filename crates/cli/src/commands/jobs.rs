//! `echogen generate` and `echogen batch`: run jobs in this process, and print each one's outcome.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use echogen_service::{
    BundleNetworks, ContentIds, Exit, Failure, JobsFile, NetworkSource, block_on,
    config::ServiceConfig,
    console::{print_error, print_json, print_line},
    embedded::{JobEnd, JobSource, Outcome, Pipeline, PipelineOptions, RunObserver, Runner},
    stop_token,
};
use tokio_util::sync::CancellationToken;

use super::generate::{self, GenerateArguments, RunArguments};
use crate::{
    contact_sheet::{self, Collection},
    report::{JobReport, Reporter, Status, Tally},
};

pub(crate) const BATCH_EXAMPLES: &str = "\
Each line of the file is a job; it needs the subject's picture and the prompt:
    {\"subject\": {\"image\": \"dog.png\"}, \"prompt\": \"a dog on a beach\"}
    {\"id\": \"cup-1\", \"subject\": {\"image\": \"cup.jpg\"}, \"prompt\": \"a cup on the moon\", \"seeds\": [1, 2]}
Relative paths of pictures start at the folder of the file. `echogen schema job` prints all fields.

Examples:
  Run a file with 4 threads; stop it with Ctrl-C, run it again to resume:
    echogen batch jobs.jsonl --out out/ --threads 4
  Print one JSON object for each job, for programs:
    echogen batch jobs.jsonl --out out/ --json
  Defaults for lines without these fields:
    echogen batch jobs.jsonl --count 2 --pixels 0.06M --format webp

An invalid line is reported with its number; the other lines run.";

/// `echogen batch`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BatchArguments {
    /// File with one job per line, as JSON; `-` reads standard input
    #[arg(value_name = "JOBS")]
    pub(crate) jobs: PathBuf,

    /// Jobs in progress at once; this bounds the memory
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) in_flight: u32,

    /// See [`RunArguments`].
    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// Runs `echogen generate`.
pub(crate) fn generate(arguments: &GenerateArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    let mut source = Some(generate::job(arguments, config)?);
    block_on(async {
        let reporter = Reporter::for_one_job(as_json, std::io::stderr().is_terminal());
        let tally = load_and_run(&mut source, reporter, 1, &arguments.run, config).await?;
        finish_one(tally, as_json, arguments.id.is_some())
    })
}

/// How ids of jobs follow from their content.
pub(crate) fn content_ids(config: &ServiceConfig) -> ContentIds {
    ContentIds { bundle: config.model.bundle.clone(), max_image_bytes: config.fetch.max_image_bytes }
}

/// Runs `echogen batch`.
pub(crate) fn batch(arguments: &BatchArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        let source = JobsFile::open(&arguments.jobs, config.job.fields()).await?;
        let mut source = source.with_content_ids(content_ids(config));
        let reporter = Reporter::for_many_jobs(as_json, std::io::stderr().is_terminal(), source.total());
        let in_flight = usize::try_from(arguments.in_flight).unwrap_or(usize::MAX);
        let tally = load_and_run(&mut source, reporter, in_flight, &arguments.run, config).await?;
        Ok(finish_many(&tally, as_json))
    })
}

async fn load_and_run(
    source: &mut impl JobSource,
    reporter: Reporter,
    in_flight: usize,
    arguments: &RunArguments,
    config: &ServiceConfig,
) -> Result<Tally, Failure> {
    let stop = stop_token();
    let bundle = BundleNetworks::open(config)?;
    let Some(networks) = stop.run_until_cancelled(bundle.load(&config.sampler)).await else {
        return Ok(reporter.finish(Duration::ZERO, true));
    };
    run(networks?, source, reporter, in_flight, (arguments, config), &stop).await
}

/// Runs the jobs of a source with the given networks, until `stop`.
async fn run(
    networks: impl NetworkSource + 'static,
    source: &mut impl JobSource,
    reporter: Reporter,
    in_flight: usize,
    (arguments, config): (&RunArguments, &ServiceConfig),
    stop: &CancellationToken,
) -> Result<Tally, Failure> {
    let (out, started) = (&arguments.out, Instant::now());
    let pipeline_options = PipelineOptions { out: out.clone(), attempts: arguments.attempts };
    let pipeline = Pipeline::start(networks, config, &pipeline_options).await?;
    let mut shown = Shown { reporter, out, sheet: Collection::default() };
    let interrupted = Runner::new(&pipeline, in_flight, &mut shown).await?.run(source, stop).await;
    pipeline.drain().await;
    let interrupted = interrupted?;
    let Shown { reporter, sheet, .. } = shown;
    let drawn = sheet.draw(pipeline.work(), pipeline.results()).await;
    if let Err(error) = &drawn {
        reporter.note(&format!("warning: no contact sheet: {error:#}"));
    }
    let tally = reporter.finish(started.elapsed(), interrupted);
    Ok(Tally { contact_sheet: drawn.unwrap_or(false).then(|| out.join(contact_sheet::KEY)), ..tally })
}

/// The display of a run: its lines or its bar, and the contact sheet at the end.
struct Shown<'a> {
    reporter: Reporter,
    out: &'a Path,
    sheet: Collection,
}

impl RunObserver for Shown<'_> {
    fn job_ended(&mut self, end: JobEnd<'_>) {
        let JobEnd { id, line, order, outcome, seconds } = end;
        let (status, images, error) = match outcome {
            Outcome::Done(job, result) | Outcome::Cached(job, result) => {
                self.sheet.add(order, job, result);
                let status = if matches!(outcome, Outcome::Done(..)) { Status::Done } else { Status::Cached };
                let images: Vec<PathBuf> = result.images.iter().map(|image| self.out.join(&image.key)).collect();
                (status, images, None)
            }
            Outcome::Repeated => (Status::Cached, Vec::new(), None),
            Outcome::Failed(error) => (Status::Failed, Vec::new(), Some(error)),
        };
        let id = id.map(|id| id.as_str().to_owned());
        self.reporter.job_ended(&JobReport { id, line, status, images, error, seconds });
    }

    fn scale_done(&mut self, scale: u64, scales: u64) {
        self.reporter.scale_done(scale, scales);
    }

    fn stopping(&mut self) {
        self.reporter.note("stopping: finishing what is running; press Ctrl-C again to stop at once");
    }
}

fn finish_one(tally: Tally, json: bool, has_given_id: bool) -> Result<Exit, Failure> {
    if json {
        print_json("summary", &tally);
    } else {
        tally.images.iter().for_each(|image| print_line(&image.display().to_string()));
        note_sheet(tally.contact_sheet.as_deref());
        if tally.cached > 0 {
            // An id that was given does not depend on the settings, so changed settings find the same finished job.
            print_error(match has_given_id {
                true => "done before under this --id; for other pictures give another --id, or another --out",
                false => "done before; for other pictures change --seed, for another folder --id",
            });
        }
    }
    match (tally.interrupted, tally.first_error) {
        (true, _) => {
            Err(Failure { exit: Exit::Interrupted, message: "interrupted; run the same command again".to_owned() })
        }
        (false, Some(message)) => Err(Failure { exit: Exit::JobFailed, message }),
        (false, None) => Ok(Exit::Success),
    }
}

fn finish_many(tally: &Tally, json: bool) -> Exit {
    if json {
        print_json("summary", tally);
    } else {
        print_error(tally.summary());
        note_sheet(tally.contact_sheet.as_deref());
    }
    if tally.interrupted {
        print_error("interrupted; run the same command again to go on, finished jobs are skipped");
        return Exit::Interrupted;
    }
    if tally.failed > 0 { Exit::JobFailed } else { Exit::Success }
}

fn note_sheet(path: Option<&Path>) {
    if let Some(path) = path {
        print_line(&path.display().to_string());
    }
}

#[cfg(test)]
mod tests;
