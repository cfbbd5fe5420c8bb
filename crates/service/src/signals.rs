//! One run of the pipeline, from the choice of a bundle to the exit code.

use std::{
    future::Future,
    io::IsTerminal,
    path::Path,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    arguments::{BatchArguments, GeneralOptions, GenerateArguments, RunOptions},
    batch::JobsFile,
    failure::{Exit, Failure},
    generate::OneJob,
    networks,
    pipeline::Pipeline,
    report::{Reporter, Tally, complain, print_json, print_line},
    runner::{JobSource, Runner},
};

/// What the signals have said; signals are the process's, so there is one of it.
static INTERRUPTION: LazyLock<Interruption> = LazyLock::new(Interruption::default);

/// Whether somebody wants the process to end.
#[derive(Default)]
struct Interruption {
    /// Cancelled by the first signal.
    told: CancellationToken,
    /// Whether the command ends in its own way when it is told to.
    heeded: AtomicBool,
}

/// Runs `echogen generate`.
pub(crate) fn generate(arguments: &GenerateArguments, general: &GeneralOptions) -> Result<Exit, Failure> {
    let mut source = OneJob::new(arguments)?;
    block_on(async {
        let reporter = Reporter::for_one_job(general.json, std::io::stderr().is_terminal());
        let tally = run(&mut source, reporter, 1, &arguments.run).await?;
        finish_one(tally, general.json, arguments.id.is_some())
    })
}

/// Runs `echogen batch`.
pub(crate) fn batch(arguments: &BatchArguments, general: &GeneralOptions) -> Result<Exit, Failure> {
    block_on(async {
        let (mut source, total) = JobsFile::open(arguments).await?;
        let reporter = Reporter::for_many_jobs(general.json, std::io::stderr().is_terminal(), total);
        let in_flight = usize::try_from(arguments.in_flight).unwrap_or(usize::MAX);
        let tally = run(&mut source, reporter, in_flight, &arguments.run).await?;
        Ok(finish_many(&tally, general.json))
    })
}

/// Runs to the end, or until somebody is in a hurry: a second signal never waits for anything, nor does the first
/// if the command has not asked for it by [`stop_token`] or [`interrupted`].
pub(crate) fn block_on(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let fault = |error: std::io::Error| Failure::usage(format!("cannot start threads: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(fault)?;
    let exit = runtime.block_on(async {
        // Before any work: a signal counts from here on, also while nobody waits for one.
        let signals = Signals::listen()
            .map_err(|error| Failure::usage(format!("cannot listen for Ctrl-C and other signals: {error}")))?;
        tokio::select! {
            biased;
            () = hurried(signals) => Ok(Exit::Interrupted),
            exit = work => exit,
        }
    });
    runtime.shutdown_background();
    exit
}

/// The token that the first signal cancels, also one that came before. Whoever takes it ends in its own way from then
/// on.
pub(crate) fn stop_token() -> CancellationToken {
    INTERRUPTION.heeded.store(true, Ordering::SeqCst);
    INTERRUPTION.told.clone()
}

/// Waits for the first signal, also one that came before; see [`stop_token`].
pub(crate) async fn interrupted() {
    stop_token().cancelled_owned().await;
}

/// Does what keeps a thread busy for long, such as loading networks, on a thread of its own: signals are heard
/// meanwhile.
pub(crate) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => Err(Failure::usage(format!("a thread has gone: {error}"))),
    })
}

/// Passes the first signal on, and returns as soon as nothing is to be waited for any more.
async fn hurried(mut signals: Signals) {
    signals.next().await;
    INTERRUPTION.told.cancel();
    if INTERRUPTION.heeded.load(Ordering::SeqCst) {
        signals.next().await;
    }
}

async fn run(
    source: &mut impl JobSource,
    reporter: Reporter,
    in_flight: usize,
    options: &RunOptions,
) -> Result<Tally, Failure> {
    let (stop, model) = (stop_token(), options.model.clone());
    let loading = apart(move || networks::load(&model));
    let Some(networks) = stop.run_until_cancelled(loading).await else {
        return Ok(reporter.finish(Duration::ZERO, true));
    };
    let pipeline = Pipeline::start(networks?, options).await?;
    let tally = Runner::new(&pipeline, &options.out, reporter, in_flight).await?.run(source, &stop).await;
    pipeline.drain().await;
    tally
}

/// Ctrl-C, and the signal by which a system asks a process to end; none is lost from the moment that this is made.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Ctrl-C.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            // Without signals there is no interruption.
            std::future::pending::<()>().await;
        }
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
            complain(match has_given_id {
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
        complain(tally.summary());
        note_sheet(tally.contact_sheet.as_deref());
    }
    if tally.interrupted {
        complain("interrupted; run the same command again to go on, finished jobs are skipped");
        return Exit::Interrupted;
    }
    if tally.failed > 0 { Exit::JobFailed } else { Exit::Success }
}

fn note_sheet(path: Option<&Path>) {
    if let Some(path) = path {
        print_line(&path.display().to_string());
    }
}
