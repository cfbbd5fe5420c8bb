//! `echogen generate` and `echogen batch`: jobs run in this process, and are shown as they end.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use echogen_service::{
    BundleNetworks, Exit, Failure, JobsFile, NetworkSource, block_on,
    config::ServiceConfig,
    console::{print_error, print_json, print_line},
    embedded::{JobEnd, JobSource, Outcome, Pipeline, PipelineOptions, RunObserver, Runner},
    stop_token,
};
use tokio_util::sync::CancellationToken;

use crate::{
    arguments::{BatchArguments, GeneralOptions, GenerateArguments, RunOptions},
    contact_sheet::{self, Collection},
    generate,
    report::{JobReport, Reporter, Status, Tally},
};

/// Runs `echogen generate`.
pub(crate) fn generate(arguments: &GenerateArguments, general: &GeneralOptions) -> Result<Exit, Failure> {
    let mut source = Some(generate::job(arguments)?);
    block_on(async {
        let reporter = Reporter::for_one_job(general.json, std::io::stderr().is_terminal());
        let tally = load_and_run(&mut source, reporter, 1, &arguments.run).await?;
        finish_one(tally, general.json, arguments.id.is_some())
    })
}

/// Runs `echogen batch`.
pub(crate) fn batch(arguments: &BatchArguments, general: &GeneralOptions) -> Result<Exit, Failure> {
    arguments.sampling.check().map_err(|error| Failure::usage(error.to_string()))?;
    block_on(async {
        let mut source = JobsFile::open(&arguments.jobs, arguments.sampling.as_defaults()).await?;
        let reporter = Reporter::for_many_jobs(general.json, std::io::stderr().is_terminal(), source.total());
        let in_flight = usize::try_from(arguments.in_flight).unwrap_or(usize::MAX);
        let tally = load_and_run(&mut source, reporter, in_flight, &arguments.run).await?;
        Ok(finish_many(&tally, general.json))
    })
}

async fn load_and_run(
    source: &mut impl JobSource,
    reporter: Reporter,
    in_flight: usize,
    options: &RunOptions,
) -> Result<Tally, Failure> {
    let (stop, config) = (stop_token(), options.config());
    let bundle = BundleNetworks::open(&config)?;
    let Some(networks) = stop.run_until_cancelled(bundle.load(&config.sampler)).await else {
        return Ok(reporter.finish(Duration::ZERO, true));
    };
    run(networks?, source, reporter, in_flight, options, &stop).await
}

/// Runs the jobs of a source with some networks, until `stop`.
async fn run(
    networks: impl NetworkSource + 'static,
    source: &mut impl JobSource,
    reporter: Reporter,
    in_flight: usize,
    options: &RunOptions,
    stop: &CancellationToken,
) -> Result<Tally, Failure> {
    let (out, started) = (&options.out, Instant::now());
    let pipeline_options = PipelineOptions { out: out.clone(), attempts: options.attempts };
    let pipeline = Pipeline::start(networks, &options.config(), &pipeline_options).await?;
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

impl RunOptions {
    fn config(&self) -> ServiceConfig {
        let mut config = ServiceConfig { model: self.model.config(), ..ServiceConfig::default() };
        config.finder = self.model.finder.config();
        config.fetch.max_image_bytes = self.max_image_bytes;
        config
    }
}

/// What is shown of a run: its lines or its bar, and in the end the contact sheet.
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
            // A name that was given does not follow from the settings: other settings find the same job.
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
