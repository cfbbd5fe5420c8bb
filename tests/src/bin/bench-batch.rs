//! Measures batches at scale: `cargo run --release -p echogen-tests --bin bench-batch [-- --help]`.
//!
//! A jobs file of many lines names pictures of a thousand subjects. `echogen batch` runs it with constant networks in a process
//! of its own, is killed by SIGKILL after a third of the jobs, and runs it again to its end; a third run finds everything done.
//! `echogen submit --batch` then sends the same file to RabbitMQ, with pictures in S3, killed and resumed in the same way. Of each
//! run the speed and the resident memory are printed, the latter at quarters of the run, so that growth is seen.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use echogen_tests::{constant, process::status_kib, system::Servers};

/// The first argument of a process that is to run a command; the command line follows.
const CHILD: &str = "run-command";

/// Pause between two looks at a process.
const PAUSE: Duration = Duration::from_millis(50);

/// Measures batches at scale.
#[derive(Clone, Debug, Parser)]
struct Settings {
    /// Lines of the jobs file.
    #[arg(default_value_t = 100_000)]
    lines: usize,
    /// Subjects, whose pictures the lines name in turn.
    #[arg(long, default_value_t = 1_000)]
    subjects: usize,
    /// Run `batch` with the mini bundle's networks in place of constant ones.
    #[arg(long)]
    mini: bool,
    /// Measure one command only; `submit` needs RabbitMQ and Redis.
    #[arg(long, value_enum)]
    only: Option<Only>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    Batch,
    Submit,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match arguments.get(1) {
        Some(word) if word == CHILD => child(arguments.get(2..).unwrap_or_default()),
        _ => match measure(&Settings::parse()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// Runs a command line; `batch` has constant networks, unless a bundle is named.
fn child(arguments: &[OsString]) -> ExitCode {
    let is_batch = arguments.iter().any(|word| word == "batch");
    if is_batch && !arguments.iter().any(|word| word == "--bundle") {
        return echogen_cli::batch_with(constant::networks(Duration::ZERO), arguments);
    }
    echogen_cli::main_with(arguments)
}

fn measure(settings: &Settings) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("a folder for temporary files")?;
    let jobs = write_jobs(folder.path(), settings)?;
    println!("{} lines, {} subjects", settings.lines, settings.subjects);
    println!("| run | jobs ended | seconds | jobs/s | resident memory at quarters, MiB | largest, MiB |");
    println!("|---|---|---|---|---|---|");
    if settings.only != Some(Only::Submit) {
        batch(folder.path(), &jobs, settings)?;
    }
    if settings.only != Some(Only::Batch) {
        let runtime = tokio::runtime::Runtime::new()?;
        let servers = runtime.block_on(Servers::start_for_measuring())?;
        submit(&jobs, settings, &servers)?;
    }
    Ok(())
}

/// Writes the subjects' pictures and the jobs file beside them.
fn write_jobs(folder: &Path, settings: &Settings) -> anyhow::Result<PathBuf> {
    let subjects = folder.join("subjects");
    fs::create_dir(&subjects)?;
    for number in 0..settings.subjects {
        let picture = if settings.mini { fs::read(example())? } else { constant::picture(number as u64) };
        fs::write(subjects.join(format!("{number}.png")), picture)?;
    }
    let mut lines = String::new();
    for number in 0..settings.lines {
        let subject = number % settings.subjects.max(1);
        writeln!(
            lines,
            r#"{{"subject": {{"image": "subjects/{subject}.png", "name": "mug"}}, "prompt": "a mug on a beach, {number}"}}"#
        )?;
    }
    let jobs = folder.join("jobs.jsonl");
    fs::write(&jobs, lines)?;
    Ok(jobs)
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/subjects/mug.png")
}

fn batch(folder: &Path, jobs: &Path, settings: &Settings) -> anyhow::Result<()> {
    let out = folder.join("out");
    let given = [jobs.as_os_str(), "--out".as_ref(), out.as_os_str(), "--json".as_ref()];
    let mini: &[&str] = if settings.mini {
        &["--bundle", "mini", "--pixels", "0.004M", "--sampler-condition-cache-bytes", "33554432"]
    } else {
        &[]
    };
    let line = || {
        let words = ["echogen".into(), "batch".into()].into_iter().chain(given.map(OsString::from));
        words.chain(mini.iter().map(OsString::from)).collect::<Vec<_>>()
    };
    let killed = Run::start(&line(), settings.lines)?.watch(Some(settings.lines / 3))?;
    killed.print("batch, killed by SIGKILL");
    let resumed = Run::start(&line(), settings.lines)?.watch(None)?;
    resumed.print("batch, again to its end");
    let rows = rows(&out)?;
    ensure!(rows.len() == settings.lines, "results.csv has {} rows", rows.len());
    let cached = rows.iter().filter(|row| row.split(',').nth(2) == Some("cached")).count();
    ensure!(cached >= killed.ended, "{} jobs had ended, and only {cached} were found done", killed.ended);
    let done = Run::start(&line(), settings.lines)?.watch(None)?;
    done.print("batch, all done before");
    Ok(())
}

fn rows(out: &Path) -> anyhow::Result<Vec<String>> {
    let table = fs::read_to_string(out.join("results.csv")).context("results.csv")?;
    Ok(table.lines().skip(1).map(str::to_owned).collect())
}

fn submit(jobs: &Path, settings: &Settings, servers: &Servers) -> anyhow::Result<()> {
    let environment = servers.environment();
    let store = format!("s3://{}/{}", environment.bucket, environment.prefix);
    let words =
        ["echogen", "submit", "--lane", "bulk", "--json", "--store-url", &store, "--broker-url", &environment.amqp_url];
    let words = words.map(OsString::from).into_iter();
    let line: Vec<OsString> = words.chain(["--batch".into(), jobs.as_os_str().to_owned()]).collect();
    let variables = [
        ("ECHOGEN_STORE_ENDPOINT", &environment.s3_endpoint),
        ("ECHOGEN_STORE_ACCESS_KEY_ID", &environment.access_key),
        ("ECHOGEN_STORE_SECRET_ACCESS_KEY", &environment.secret_key),
        ("ECHOGEN_BROKER_PREFIX", &environment.prefix),
    ];
    let start = || Run::start_with(&line, settings.lines, &variables);
    let declare = ["echogen", "topology", "--declare", "--json", "--broker-url", &environment.amqp_url];
    Run::start_with(&declare.map(OsString::from), settings.lines, &variables)?.watch(None)?;
    let killed = start()?.watch(Some(settings.lines / 3))?;
    killed.print("submit --batch, killed by SIGKILL");
    let resumed = start()?.watch(None)?;
    resumed.print("submit --batch, again to its end");
    let twice = (killed.ended + resumed.ended).saturating_sub(settings.lines);
    println!(
        "\n{twice} of {} lines were sent twice around the kill; a job that is sent twice is one job",
        settings.lines
    );
    Ok(())
}

/// A command in a process of its own.
struct Run {
    child: Child,
    lines: usize,
    ended: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    started: Instant,
}

/// What was seen of it.
struct Seen {
    ended: usize,
    seconds: f64,
    /// Resident memory when a quarter of the lines had ended, a half, and so on, in KiB.
    quarters: Vec<u64>,
    largest: u64,
}

impl Run {
    fn start(line: &[OsString], lines: usize) -> anyhow::Result<Self> {
        Self::start_with(line, lines, &[])
    }

    /// Starts it; each line of its standard output but the last one is the end of a job.
    fn start_with(line: &[OsString], lines: usize, variables: &[(&str, &String)]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(CHILD).args(line).envs(variables.iter().copied());
        command.env("ECHOGEN_MODEL_BUNDLES", Path::new(env!("CARGO_MANIFEST_DIR")).join("../bundles"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let output = child.stdout.take().context("it is a pipe")?;
        let (ended, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counters = [Arc::clone(&ended), Arc::clone(&failed)];
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            for line in lines.filter(|line| !line.contains("\"type\":\"summary\"")) {
                let is_failed = line.contains("\"error\":");
                counters[usize::from(is_failed)].fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { child, lines, ended, failed, started: Instant::now() })
    }

    /// Watches it to its end, or kills it after so many jobs.
    fn watch(mut self, kill_after: Option<usize>) -> anyhow::Result<Seen> {
        let pid = i32::try_from(self.child.id())?;
        let mut seen = Seen { ended: 0, seconds: 0.0, quarters: Vec::new(), largest: 0 };
        loop {
            let resident = status_kib(pid, "VmRSS:");
            seen.largest = seen.largest.max(resident);
            seen.ended = self.ended.load(Ordering::Relaxed);
            while resident > 0 && seen.quarters.len() < 4 * seen.ended / self.lines.max(1) {
                seen.quarters.push(resident);
            }
            if kill_after.is_some_and(|limit| seen.ended >= limit) {
                self.child.kill()?;
                self.child.wait()?;
                break;
            }
            let failed = self.failed.load(Ordering::Relaxed);
            ensure!(failed == 0, "{failed} lines failed");
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "it ended with {status}");
                break;
            }
            sleep(PAUSE);
        }
        seen.seconds = self.started.elapsed().as_secs_f64();
        // What it wrote last may not have been read.
        sleep(PAUSE * 4);
        seen.ended = self.ended.load(Ordering::Relaxed);
        Ok(seen)
    }
}

impl Seen {
    fn print(&self, name: &str) {
        let mib = |kib: &u64| format!("{:.0}", *kib as f64 / 1024.0);
        let quarters: Vec<String> = self.quarters.iter().map(mib).collect();
        let (ended, seconds) = (self.ended, self.seconds);
        let speed = ended as f64 / seconds.max(1e-3);
        println!("| {name} | {ended} | {seconds:.1} | {speed:.0} | {} | {} |", quarters.join(", "), mib(&self.largest));
    }
}
