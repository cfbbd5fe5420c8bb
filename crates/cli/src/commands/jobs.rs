//! `echogen generate` and `echogen batch`: run jobs in this process, and print each one's outcome.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use echogen_protocol::{Job, JobResult};
use echogen_service::{
    BundleNetworks, ContentIds, Crossing, Exit, Failure, JobsFile, NetworkSource, block_on,
    config::ServiceConfig,
    console::{print_error, print_json, print_line},
    embedded::{JobEnd, JobSource, Outcome, Pipeline, PipelineOptions, RunObserver, Runner, WORK_FOLDER},
    stop_token,
};
use tokio_util::sync::CancellationToken;

use super::generate::{self, GenerateArguments, RunArguments};
use crate::{
    contact_sheet::{self, Collection},
    report::{JobReport, Reporter, Status, Tally},
    results_table::{ResultsTable, Table},
};

pub(crate) const BATCH_EXAMPLES: &str = "\
Each line of the file is a job; it needs the subject's picture and the prompt:
    {\"subject\": {\"image\": \"cat.png\"}, \"prompt\": \"a cat on a beach\"}
    {\"id\": \"mug-1\", \"subject\": {\"image\": \"mug.jpg\"}, \"prompt\": \"a mug on the moon\", \"seeds\": [1, 2]}
Relative paths of pictures start at the folder of the file. `echogen schema job` prints all fields.

Examples:
  Run a file with 4 threads; stop it with Ctrl-C, run it again to resume:
    echogen batch jobs.jsonl --out out/ --threads 4
  Every picture of a folder with every line of a text file, four pictures each. {name} in a line stands
  for the name of the picture's file, and is then what is looked for in the picture:
    echogen batch --subjects products/ --prompts scenes.txt --count 4 --out out/
  The same as a jobs file, for `echogen submit --batch` or to be edited:
    echogen batch --subjects products/ --prompts scenes.txt --print-jobs > jobs.jsonl
  Print one JSON object for each job, for programs:
    echogen batch jobs.jsonl --out out/ --json
  Defaults for lines without these fields:
    echogen batch jobs.jsonl --count 2 --pixels 0.06M --format webp

OUT/results.csv has a row for each picture and each failure, OUT/contact-sheet.png shows the pictures. A
later run with other jobs does not overwrite them; it writes results-2.csv, contact-sheet-run-2.png.
An invalid line is reported with its number; the other lines run. Failures are repeated at the end.";

/// `echogen batch`.
#[derive(Args, Debug, Clone)]
pub(crate) struct BatchArguments {
    /// File with one job per line, as JSON; `-` reads standard input
    #[arg(value_name = "JOBS", required_unless_present = "subjects")]
    pub(crate) jobs: Option<PathBuf>,

    /// Folder of pictures (png, jpg, jpeg, webp), each of which is crossed with each prompt
    #[arg(long, value_name = "FOLDER", requires = "prompts", conflicts_with = "jobs")]
    pub(crate) subjects: Option<PathBuf>,

    /// Text file with one prompt per line; {name} in it stands for the name of the picture's file
    #[arg(long, value_name = "FILE", requires = "subjects")]
    pub(crate) prompts: Option<PathBuf>,

    /// Print the crossed jobs as lines of a jobs file, and run nothing
    #[arg(long, requires = "subjects")]
    pub(crate) print_jobs: bool,

    /// Pages of the contact sheet at most, of 40 jobs with up to four pictures; 0 draws none
    #[arg(long, value_name = "N", default_value_t = 25, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub(crate) sheet_pages: u32,

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
        let running = Running { reporter, in_flight: 1, sheet_pages: 1, is_batch: false };
        let tally = load_and_run(&mut source, running, &arguments.run, config).await?;
        finish_one(tally, as_json, arguments.id.is_some())
    })
}

/// How ids of jobs follow from their content.
pub(crate) fn content_ids(config: &ServiceConfig) -> ContentIds {
    ContentIds { bundle: config.model.bundle.clone(), max_image_bytes: config.fetch.max_image_bytes }
}

/// Runs `echogen batch`.
pub(crate) fn batch(arguments: &BatchArguments, config: &ServiceConfig, as_json: bool) -> Result<Exit, Failure> {
    if arguments.print_jobs {
        return print_jobs(arguments, config);
    }
    let load = async |config: &ServiceConfig| BundleNetworks::open(config)?.load(&config.sampler).await;
    block_on(batch_on(load, arguments, config, as_json))
}

/// Runs a batch with the networks that `load` loads.
pub(crate) async fn batch_on<N: NetworkSource + 'static>(
    load: impl AsyncFnOnce(&ServiceConfig) -> Result<N, Failure>,
    arguments: &BatchArguments,
    config: &ServiceConfig,
    as_json: bool,
) -> Result<Exit, Failure> {
    let fields = config.job.fields();
    if let Some(path) = &arguments.jobs {
        let mut file = JobsFile::open(path, fields).await?.with_content_ids(content_ids(config));
        let total = file.total();
        return run_many(load, &mut file, total, arguments, config, as_json).await;
    }
    let mut crossing = crossing(arguments, config)?;
    let total = Some(crossing.total());
    if crossing.ignored() > 0 && !as_json {
        let noun = if crossing.ignored() == 1 { "file is" } else { "files are" };
        print_error(format_args!("note: {} {noun} no png, jpg, jpeg or webp picture", crossing.ignored()));
    }
    run_many(load, &mut crossing, total, arguments, config, as_json).await
}

async fn run_many<N: NetworkSource + 'static>(
    load: impl AsyncFnOnce(&ServiceConfig) -> Result<N, Failure>,
    source: &mut impl JobSource,
    total: Option<u64>,
    arguments: &BatchArguments,
    config: &ServiceConfig,
    as_json: bool,
) -> Result<Exit, Failure> {
    let stop = stop_token();
    let running = Running::of_batch(arguments, as_json, total);
    let Some(networks) = stop.run_until_cancelled(load(config)).await else {
        return Ok(finish_many(&running.reporter.finish(Duration::ZERO, true), as_json));
    };
    let tally = run(networks?, source, running, (&arguments.run, config), &stop).await?;
    Ok(finish_many(&tally, as_json))
}

fn crossing(arguments: &BatchArguments, config: &ServiceConfig) -> Result<Crossing, Failure> {
    let [subjects, prompts] = [&arguments.subjects, &arguments.prompts].map(|path| path.clone().unwrap_or_default());
    Crossing::open(&subjects, &prompts, config.job.fields(), content_ids(config))
}

/// Prints the crossed jobs. Paths are absolute, so that the lines may be kept anywhere.
fn print_jobs(arguments: &BatchArguments, config: &ServiceConfig) -> Result<Exit, Failure> {
    let subjects = arguments.subjects.as_deref().map(std::path::absolute).transpose();
    let subjects = subjects.map_err(|error| Failure::usage(format!("--subjects: {error}")))?;
    let mut crossing = crossing(&BatchArguments { subjects, ..arguments.clone() }, config)?;
    let mut exit = Exit::Success;
    while let Some(job) = crossing.next_job() {
        match job.map(|job| serde_json::to_string(&job)) {
            Ok(line) => print_line(&line.unwrap_or_default()),
            Err(error) => {
                print_error(format_args!("failed {error}"));
                exit = Exit::JobFailed;
            }
        }
    }
    Ok(exit)
}

async fn load_and_run(
    source: &mut impl JobSource,
    running: Running,
    arguments: &RunArguments,
    config: &ServiceConfig,
) -> Result<Tally, Failure> {
    let stop = stop_token();
    let bundle = BundleNetworks::open(config)?;
    let Some(networks) = stop.run_until_cancelled(bundle.load(&config.sampler)).await else {
        return Ok(running.reporter.finish(Duration::ZERO, true));
    };
    run(networks?, source, running, (arguments, config), &stop).await
}

/// How a run is displayed and what it leaves beside the results.
pub(crate) struct Running {
    reporter: Reporter,
    in_flight: usize,
    sheet_pages: usize,
    /// Whether it has many jobs: a table of them, and a contact sheet that is not one job's.
    is_batch: bool,
}

impl Running {
    fn of_batch(arguments: &BatchArguments, as_json: bool, total: Option<u64>) -> Self {
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Self {
            reporter: Reporter::for_many_jobs(as_json, std::io::stderr().is_terminal(), total),
            in_flight: size(arguments.in_flight),
            sheet_pages: size(arguments.sheet_pages),
            is_batch: true,
        }
    }
}

/// Runs the jobs of a source with the given networks, until `stop`.
async fn run(
    networks: impl NetworkSource + 'static,
    source: &mut impl JobSource,
    running: Running,
    (arguments, config): (&RunArguments, &ServiceConfig),
    stop: &CancellationToken,
) -> Result<Tally, Failure> {
    let (out, started) = (&arguments.out, Instant::now());
    let pipeline_options = PipelineOptions { out: out.clone(), attempts: arguments.attempts };
    let pipeline = Pipeline::start(networks, config, &pipeline_options).await?;
    let in_flight = running.in_flight;
    let mut shown = Shown::begin(running, &out.join(WORK_FOLDER), out)?;
    let interrupted = Runner::new(&pipeline, in_flight, &mut shown).await?.run(source, stop).await;
    pipeline.drain().await;
    let interrupted = interrupted?;
    Ok(shown.finish(&pipeline, started, interrupted).await)
}

/// The display of a run: its lines or its bar, and what is written at its end.
struct Shown<'a> {
    reporter: Reporter,
    out: &'a Path,
    sheet: Collection,
    /// Of a run of many jobs.
    table: Option<ResultsTable>,
    /// The first error of writing the table.
    table_error: Option<std::io::Error>,
    /// The first job's folder, where the sheet of a single job belongs.
    folder: Option<String>,
}

impl<'a> Shown<'a> {
    fn begin(running: Running, work: &Path, out: &'a Path) -> Result<Self, Failure> {
        let table = running.is_batch.then(|| ResultsTable::begin(out, work)).transpose();
        let table = table.map_err(|error| Failure::usage(format!("cannot write in {}: {error}", work.display())))?;
        let (reporter, sheet) = (running.reporter, Collection::new(running.sheet_pages));
        Ok(Self { reporter, out, sheet, table, table_error: None, folder: None })
    }

    /// Writes the table and the sheet. What cannot be written is a warning: the pictures are there.
    async fn finish(self, pipeline: &Pipeline, started: Instant, interrupted: bool) -> Tally {
        let Self { reporter, out, sheet, table, table_error, folder } = self;
        let is_batch = table.is_some();
        let table = match (table_error, table.map(|table| table.finish(interrupted)).transpose()) {
            (None, Ok(table)) => table.flatten(),
            (Some(error), _) | (None, Err(error)) => {
                reporter.note(&format!("warning: no table of results: {error}"));
                None
            }
        };
        let name = match (&table, folder) {
            (Some(Table { number: 1, .. }), _) => Some(contact_sheet::NAME.to_owned()),
            (Some(Table { number, .. }), _) => Some(format!("{}-run-{number}", contact_sheet::NAME)),
            // Without a table of its own a batch would overwrite the sheet of another one.
            (None, folder) => folder.filter(|_| !is_batch).map(|folder| format!("{folder}/{}", contact_sheet::NAME)),
        };
        let (mut pages, mut hidden) = (Vec::new(), 0);
        if let Some(name) = name {
            match sheet.draw(&name, pipeline.work(), pipeline.results()).await {
                Ok(drawn) => (pages, hidden) = (drawn.pages, drawn.hidden),
                Err(error) => reporter.note(&format!("warning: no contact sheet: {error:#}")),
            }
        }
        let tally = reporter.finish(started.elapsed(), interrupted);
        let (contact_sheet, sheet_pages) = (pages.first().map(|page| out.join(page)), pages.len());
        Tally { contact_sheet, sheet_pages, hidden, table: table.map(|table| table.path), ..tally }
    }
}

impl RunObserver for Shown<'_> {
    fn job_ended(&mut self, end: JobEnd<'_>) {
        if let Some(table) = &mut self.table
            && let Err(error) = table.add(&end)
        {
            self.table_error.get_or_insert(error);
        }
        let JobEnd { job, line, order, outcome, seconds } = end;
        let (status, images, error) = match outcome {
            Outcome::Done(result) => (Status::Done, self.collect(order, job, result), None),
            Outcome::Cached(result) => (Status::Cached, self.collect(order, job, result), None),
            Outcome::Repeated => (Status::Cached, Vec::new(), None),
            Outcome::Failed(error) => (Status::Failed, Vec::new(), Some(error)),
        };
        let id = job.map(|job| job.id.as_str().to_owned());
        self.reporter.job_ended(&JobReport { id, line, status, images, error, seconds });
    }

    fn scale_done(&mut self, scale: u64, scales: u64) {
        self.reporter.scale_done(scale, scales);
    }

    fn stopping(&mut self) {
        self.reporter.note("stopping: finishing what is running; press Ctrl-C again to stop at once");
    }
}

impl Shown<'_> {
    /// Notes a finished job for the sheet; returns its pictures.
    fn collect(&mut self, order: u64, job: Option<&Job>, result: &JobResult) -> Vec<PathBuf> {
        if let Some(job) = job {
            self.sheet.add(order, job, result);
        }
        let folder = || Some(result.images.first()?.key.rsplit_once('/')?.0.to_owned());
        self.folder = self.folder.take().or_else(folder);
        result.images.iter().map(|image| self.out.join(&image.key)).collect()
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
        tally.repeated().iter().for_each(print_error);
        print_error(tally.summary());
        if tally.hidden > 0 {
            print_error(format_args!(
                "{} finished jobs are on no page of the contact sheet; --sheet-pages draws more",
                tally.hidden
            ));
        }
        note_sheet(tally.contact_sheet.as_deref());
        note_sheet(tally.table.as_deref());
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
