//! Ctrl-C and SIGTERM: the first asks the program to end, a second one ends it at once.

use std::{
    future::Future,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use crate::{Exit, Failure};

/// What the signals have said; signals are the process's, so there is one of it.
static INTERRUPTION: LazyLock<Interruption> = LazyLock::new(Interruption::default);

/// Whether somebody wants the process to end.
#[derive(Default)]
struct Interruption {
    /// Cancelled by the first signal.
    stop: CancellationToken,
    /// Whether the program ends in its own way after the first signal.
    is_handled: AtomicBool,
}

/// Runs to the end, or until a second signal, which never waits for anything. Nor does the first one if the program has
/// not asked for it by [`stop_token`] or [`interrupted`].
pub fn block_on(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let fault = |error: std::io::Error| Failure::usage(format!("cannot start threads: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(fault)?;
    let exit = runtime.block_on(async {
        // Before any work: a signal counts from here on, also while nothing waits for one.
        let signals = Signals::listen()
            .map_err(|error| Failure::usage(format!("cannot listen for Ctrl-C and other signals: {error}")))?;
        tokio::select! {
            // The signal is checked first: work that is always ready would otherwise delay it.
            biased;
            () = last_signal(signals) => Ok(Exit::Interrupted),
            exit = work => exit,
        }
    });
    runtime.shutdown_background();
    exit
}

/// The token that the first signal cancels, also one that came before. A program that takes it ends in its own way
/// from then on.
pub fn stop_token() -> CancellationToken {
    INTERRUPTION.is_handled.store(true, Ordering::SeqCst);
    INTERRUPTION.stop.clone()
}

/// Waits for the first signal, also one that came before; see [`stop_token`].
pub async fn interrupted() {
    stop_token().cancelled_owned().await;
}

/// Passes the first signal on, and returns as soon as the process is to end without waiting: at the first signal if
/// nothing handles it, otherwise at the second.
async fn last_signal(mut signals: Signals) {
    signals.next().await;
    INTERRUPTION.stop.cancel();
    if INTERRUPTION.is_handled.load(Ordering::SeqCst) {
        signals.next().await;
    }
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

/// The stack of every thread. The AMQP client reads nested header tables by recursion on a thread of its own; with the
/// usual 2 MiB some 8 kB of a stranger's headers would end the process.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";
const STACK_BYTES: &str = "134217728";

/// Replaces this process by the same program with deep stacks, unless their size is set already: the environment of a running process
/// must not be changed, and the client offers no other way. To be called before any thread is started.
#[cfg(unix)]
pub fn with_deep_stacks() {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(STACK_VARIABLE).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let error =
        std::process::Command::new(program).args(std::env::args_os().skip(1)).env(STACK_VARIABLE, STACK_BYTES).exec();
    tracing::warn!(%error, "running with shallow stacks; set {STACK_VARIABLE}={STACK_BYTES}");
}

#[cfg(not(unix))]
pub fn with_deep_stacks() {}
