//! Ctrl-C and SIGTERM: the first signal asks the program to end, the second ends it at once.

use std::{
    future::Future,
    sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use crate::{Exit, Failure};

/// The state of the signals. It is static because signals belong to the process.
static INTERRUPTION: LazyLock<Interruption> = LazyLock::new(Interruption::default);

/// Whether the process should end.
#[derive(Default)]
struct Interruption {
    /// Cancelled by the first signal.
    stop: CancellationToken,
    /// Whether the program handles the first signal itself.
    is_handled: AtomicBool,
}

/// Runs `work` until it completes or a second signal arrives, which ends the process at once. The first signal also
/// ends it at once unless the program handles it by [`stop_token`] or [`interrupted`].
pub fn block_on(work: impl Future<Output = Result<Exit, Failure>>) -> Result<Exit, Failure> {
    let fault = |error: std::io::Error| Failure::usage(format!("cannot start threads: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(fault)?;
    let exit = runtime.block_on(async {
        // Registered before any work begins, so that a signal is noticed even while nothing waits for one.
        let signals = Signals::listen()
            .map_err(|error| Failure::usage(format!("cannot listen for Ctrl-C and other signals: {error}")))?;
        tokio::select! {
            // The signal is checked first: work that is always ready would otherwise delay it.
            biased;
            // The process must end at once.
            () = last_signal(signals) => Ok(Exit::Interrupted),
            // The work has completed.
            exit = work => exit,
        }
    });
    runtime.shutdown_background();
    exit
}

/// Returns the token that the first signal cancels, even if the signal arrived before this call. From this call on,
/// the program must end by itself after the first signal.
pub fn stop_token() -> CancellationToken {
    INTERRUPTION.is_handled.store(true, Ordering::SeqCst);
    INTERRUPTION.stop.clone()
}

/// Waits for the first signal, even if it arrived before this call; see [`stop_token`].
pub async fn interrupted() {
    stop_token().cancelled_owned().await;
}

/// Cancels the token at the first signal. Returns when the process must end at once: at the first signal if nothing
/// handles it, otherwise at the second.
async fn last_signal(mut signals: Signals) {
    signals.next().await;
    INTERRUPTION.stop.cancel();
    if INTERRUPTION.is_handled.load(Ordering::SeqCst) {
        signals.next().await;
    }
}

/// Listens for SIGINT and SIGTERM. After it is created no signal is lost.
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
            // Ctrl-C.
            _ = self.interrupt.recv() => {}
            // A request of the system to end, such as a container's stop.
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
            // Without a signal handler, no signal can arrive.
            std::future::pending::<()>().await;
        }
    }
}

/// The stack size of every thread. The AMQP client parses nested header tables recursively on its own thread; with the
/// usual 2 MiB, about 8 kB of nested headers from a hostile client would overflow the stack.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";
const STACK_BYTES: &str = "134217728";

/// Replaces this process by the same program with larger stacks, unless the variable is set. The replacement is
/// necessary because the environment of a running process must not be changed, and the client has no setting for it.
/// Call it before any thread is started.
#[cfg(unix)]
pub fn with_deep_stacks() {
    use std::os::unix::process::CommandExt;
    if std::env::var_os(STACK_VARIABLE).is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let error =
        std::process::Command::new(program).args(std::env::args_os().skip(1)).env(STACK_VARIABLE, STACK_BYTES).exec();
    tracing::warn!(%error, "running with small thread stacks; set {STACK_VARIABLE}={STACK_BYTES}");
}

#[cfg(not(unix))]
pub fn with_deep_stacks() {}
