//! One run of the pipeline, from the choice of a bundle to the exit code.

use std::{future::Future, io::IsTerminal, path::Path};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    arguments::{BatchArguments, GeneralOptions, GenerateArguments, RunOptions},
    batch::JobsFile,
    failure::{Exit, Failure},
    generate::OneJob,
    networks,
    pipeline::Pipeline,
    report::{Reporter, Tally, print_json, print_line},
    runner::{JobSource, Runner},
};

/// Runs `echogen generate`.
pub(crate) fn generate(arguments: &GenerateArguments, general: &GeneralOptions) -> Result<Exit, Failure> {
    let mut source = OneJob::new(arguments)?;
    block_on(async {
        let reporter = Reporter::for_one_job(general.json, std::io::stderr().is_terminal());
        let tally = run(&mut source, reporter, 1, &arguments.run).await?;
        finish_one(tally, general.json)
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

/// Runs to the end, or to the second Ctrl-C: that one does not wait for anything.
pub(crate) fn block_on(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let fault = |error: std::io::Error| Failure::usage(format!("cannot start threads: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(fault)?;
    let exit = runtime.block_on(async {
        tokio::select! {
            exit = work => exit,
            () = interrupted_twice() => Ok(Exit::Interrupted),
        }
    });
    runtime.shutdown_background();
    exit
}

async fn run(
    source: &mut impl JobSource,
    reporter: Reporter,
    in_flight: usize,
    options: &RunOptions,
) -> Result<Tally, Failure> {
    let networks = networks::load(&options.model)?;
    let pipeline = Pipeline::start(networks, options).await?;
    let stop = CancellationToken::new();
    let listener = TaskTracker::new();
    let (on_signal, no_longer) = (stop.clone(), CancellationToken::new());
    let listening = no_longer.clone();
    listener.spawn(async move {
        tokio::select! {
            () = interrupted() => on_signal.cancel(),
            () = listening.cancelled() => {}
        }
    });
    let tally = Runner::new(&pipeline, &options.out, reporter, in_flight).await?.run(source, &stop).await;
    no_longer.cancel();
    pipeline.drain().await;
    tally
}

/// Waits for Ctrl-C, or for the signal by which a system asks a process to end.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                result = tokio::signal::ctrl_c() => if result.is_ok() { return },
            }
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        // Without signals there is no interruption.
        std::future::pending::<()>().await;
    }
}

async fn interrupted_twice() {
    interrupted().await;
    interrupted().await;
}

fn finish_one(tally: Tally, json: bool) -> Result<Exit, Failure> {
    if json {
        print_json("summary", &tally);
    } else {
        tally.images.iter().for_each(|image| print_line(&image.display().to_string()));
        note_sheet(tally.contact_sheet.as_deref());
        if tally.cached > 0 {
            eprintln!("done before; for other pictures change --seed, for another folder --id");
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
        eprintln!("{}", tally.summary());
        note_sheet(tally.contact_sheet.as_deref());
    }
    if tally.interrupted {
        eprintln!("interrupted; run the same command again to go on, finished jobs are skipped");
        return Exit::Interrupted;
    }
    if tally.failed > 0 { Exit::JobFailed } else { Exit::Success }
}

fn note_sheet(path: Option<&Path>) {
    if let Some(path) = path {
        print_line(&path.display().to_string());
    }
}
