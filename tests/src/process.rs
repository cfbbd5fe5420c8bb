//! Roles as processes of this program: started, killed, stopped and measured.

use std::{
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use echogen_protocol::RoleName;

use crate::role::{LOG_VARIABLE, ROLE_ARGUMENT, RoleEnvironment};

/// Pause before a role whose process has died is started again.
const PAUSE: Duration = Duration::from_millis(300);

/// The process of one role. Until it is stopped, it is started again after each crash.
#[derive(Debug)]
pub struct RoleProcess {
    name: RoleName,
    environment: RoleEnvironment,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    child: Option<Child>,
    starts: u32,
    stopping: bool,
    /// The maximum of the processes that have ended.
    peak_kib: u64,
}

impl RoleProcess {
    /// Starts a role.
    pub fn start(name: RoleName, environment: &RoleEnvironment) -> anyhow::Result<Self> {
        let child = spawn(name, environment)?;
        let state = State { child: Some(child), starts: 1, stopping: false, peak_kib: 0 };
        Ok(Self { name, environment: environment.clone(), state: Arc::new(Mutex::new(state)) })
    }

    /// Returns its role.
    pub fn name(&self) -> RoleName {
        self.name
    }

    /// Returns how often it was started.
    pub fn starts(&self) -> u32 {
        self.lock().starts
    }

    /// Starts the process again if it has died; to be called regularly. Returns whether it was started.
    pub fn revive(&self) -> anyhow::Result<bool> {
        let mut state = self.lock();
        let died = match &mut state.child {
            Some(child) => child.try_wait()?.is_some(),
            None => true,
        };
        if !died || state.stopping {
            return Ok(false);
        }
        std::thread::sleep(PAUSE);
        state.child = Some(spawn(self.name, &self.environment)?);
        state.starts += 1;
        Ok(true)
    }

    /// Sends SIGKILL.
    pub fn kill_9(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Sends SIGTERM and waits for the exit. Fails if that takes longer than `limit` or the exit code is not 0.
    pub fn stop(&self, limit: Duration) -> anyhow::Result<()> {
        self.note_peak();
        self.lock().stopping = true;
        self.terminate();
        let began = Instant::now();
        loop {
            let mut state = self.lock();
            let Some(child) = &mut state.child else { return Ok(()) };
            if let Some(status) = child.try_wait()? {
                state.child = None;
                ensure!(status.success(), "the {} ended with {status} when asked to stop", self.name.as_str());
                return Ok(());
            }
            drop(state);
            ensure!(began.elapsed() < limit, "the {} did not stop within {limit:?}", self.name.as_str());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the CPU time that the current process has used, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.pid().map_or(0.0, |pid| cpu_seconds(pid.as_raw_nonzero().get()))
    }

    /// Returns the maximum resident memory of any of its processes, in MiB.
    pub fn peak_mib(&self) -> f64 {
        self.note_peak();
        self.lock().peak_kib as f64 / 1024.0
    }

    /// Returns the resident memory of the current process, in MiB.
    pub fn resident_mib(&self) -> f64 {
        self.pid().map_or(0.0, |pid| status_kib(pid.as_raw_nonzero().get(), "VmRSS:") as f64 / 1024.0)
    }

    fn note_peak(&self) {
        let Some(pid) = self.pid() else { return };
        let peak = status_kib(pid.as_raw_nonzero().get(), "VmHWM:");
        let mut state = self.lock();
        state.peak_kib = state.peak_kib.max(peak);
    }

    fn pid(&self) -> Option<Pid> {
        let state = self.lock();
        Pid::from_raw(i32::try_from(state.child.as_ref()?.id()).ok()?)
    }

    fn signal(&self, signal: Signal) {
        self.note_peak();
        let sent = self.pid().map(|pid| kill_process(pid, signal));
        if let Some(Err(error)) = sent {
            // A process that has just died cannot receive a signal.
            tracing::debug!(role = self.name.as_str(), %error, "no signal sent");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.lock().child {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn spawn(name: RoleName, environment: &RoleEnvironment) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("this program's own path")?;
    let environment = serde_json::to_string(environment)?;
    let errors = if std::env::var_os(LOG_VARIABLE).is_some() { Stdio::inherit() } else { Stdio::null() };
    let mut command = Command::new(program);
    command
        .args([ROLE_ARGUMENT, name.as_str(), &environment])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors);
    command.spawn().with_context(|| format!("start the {}", name.as_str()))
}

/// Returns the CPU time of a process in seconds, as the operating system reports it.
pub fn cpu_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// Returns a field of a process's status in KiB.
pub fn status_kib(pid: i32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}
