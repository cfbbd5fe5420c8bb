//! Whether the roles of this process live and are ready.
//!
//! A role is ready when its networks are loaded, the broker delivers to it, and every server [lets it work](Health::requires).
//! Whether it lives depends on no server: an outage, however long, costs no loaded networks. A role that neither consumes
//! nor has tried to for [`ATTEMPT_LIMIT`] is stuck and not live: that is longer than any pause between two attempts. A fault
//! of the compute device is permanent: the process must end.

use std::{
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use echogen_protocol::StageName;
use tokio::sync::Notify;

use crate::metrics::metrics;

/// How long a role may neither consume nor try to; its pauses between attempts are at most five minutes.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(600);

/// Whether the broker delivers messages to a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consuming {
    /// Whether it does.
    pub now: bool,
    /// The time since this began; if it does not, since the last attempt to consume.
    pub since: Duration,
}

/// Says why a server does not let the roles work, if it does not.
type Requirement = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

type Probe = Arc<dyn Fn() -> Consuming + Send + Sync>;

/// The state of the process.
#[derive(Default)]
pub struct Health {
    state: Mutex<State>,
    faulted: Notify,
}

#[derive(Default)]
struct State {
    roles: Vec<RoleState>,
    /// By name.
    requirements: Vec<(&'static str, Requirement)>,
    fault: Option<String>,
}

struct RoleState {
    stage: &'static str,
    /// `None` while it loads.
    probe: Option<Probe>,
}

static HEALTH: LazyLock<Health> = LazyLock::new(Health::default);

/// The health of this process.
pub fn health() -> &'static Health {
    &HEALTH
}

impl Health {
    /// A stage, or the canary, begins to load.
    pub fn starting(&self, stage: &'static str) {
        let mut state = self.lock();
        state.roles.retain(|role| role.stage != stage);
        state.roles.push(RoleState { stage, probe: None });
    }

    /// A role has loaded, and tried out, all that it needs; `probe` says whether it consumes. It must be quick.
    pub fn loaded(&self, stage: &'static str, probe: impl Fn() -> Consuming + Send + Sync + 'static) {
        let mut state = self.lock();
        let probe: Option<Probe> = Some(Arc::new(probe));
        match state.roles.iter_mut().find(|role| role.stage == stage) {
            Some(role) => role.probe = probe,
            None => state.roles.push(RoleState { stage, probe }),
        }
    }

    /// What the roles need of a server: they are ready only while `met` returns no error, which is one line on what is
    /// wrong and what to change. It must be quick. A later requirement of the same name replaces this one.
    pub fn requires(&self, name: &'static str, met: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        let mut state = self.lock();
        state.requirements.retain(|(known, _)| *known != name);
        state.requirements.push((name, Arc::new(met)));
    }

    /// The compute device has failed permanently.
    pub fn device_fault(&self, reason: &str) {
        metrics().device_fault();
        let mut state = self.lock();
        state.fault.get_or_insert_with(|| reason.to_owned());
        drop(state);
        self.faulted.notify_waiters();
    }

    /// Waits for a fault of the compute device, and returns its message.
    pub async fn faulted(&self) -> String {
        loop {
            let told = self.faulted.notified();
            tokio::pin!(told);
            // From here on no notification is missed.
            told.as_mut().enable();
            if let Some(reason) = self.fault() {
                return reason;
            }
            told.await;
        }
    }

    /// What `/livez` says: an error is a line on what is wrong.
    pub fn live(&self) -> Result<(), String> {
        for (stage, consuming) in self.consuming() {
            if let Some(Consuming { now: false, since }) = consuming.filter(|consuming| consuming.since > ATTEMPT_LIMIT)
            {
                return Err(format!("the {stage} has not tried to consume for {} seconds", since.as_secs()));
            }
        }
        Ok(())
    }

    /// What `/readyz` says.
    pub fn ready(&self) -> Result<(), String> {
        if let Some(fault) = self.fault() {
            return Err(format!("the compute device is broken: {fault}"));
        }
        // Before the roles: what a person must change is said while networks load.
        self.requirements_met()?;
        let roles = self.consuming();
        if roles.is_empty() {
            return Err("nothing runs here yet".to_owned());
        }
        for (stage, consuming) in roles {
            match consuming {
                Some(Consuming { now: true, .. }) => {}
                Some(_) => return Err(format!("the {stage} does not consume")),
                None => return Err(format!("the {stage} is loading")),
            }
        }
        Ok(())
    }

    /// Of each role that is a stage: whether it consumes, and whether it is ready.
    pub(crate) fn by_stage(&self) -> Vec<(&'static str, bool, bool)> {
        let whole = self.fault().is_none() && self.requirements_met().is_ok();
        let look = |(stage, consuming): (&'static str, Option<Consuming>)| {
            let now = consuming.is_some_and(|consuming| consuming.now);
            (stage, now, now && whole)
        };
        self.consuming().into_iter().filter(|(stage, _)| stage.parse::<StageName>().is_ok()).map(look).collect()
    }

    fn requirements_met(&self) -> Result<(), String> {
        // As in `consuming`: not under the lock.
        let all = self.lock().requirements.clone();
        let unmet: Vec<String> = all.iter().filter_map(|(_, met)| met().err()).collect();
        if unmet.is_empty() { Ok(()) } else { Err(unmet.join("; ")) }
    }

    fn consuming(&self) -> Vec<(&'static str, Option<Consuming>)> {
        // The probes acquire other locks, so they are not called under this one.
        let roles: Vec<_> = self.lock().roles.iter().map(|role| (role.stage, role.probe.clone())).collect();
        roles.into_iter().map(|(stage, probe)| (stage, probe.map(|probe| probe()))).collect()
    }

    /// The fault of the compute device, if there is one.
    pub fn fault(&self) -> Option<String> {
        self.lock().fault.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(now: bool, seconds: u64) -> impl Fn() -> Consuming + Send + Sync + 'static {
        move || Consuming { now, since: Duration::from_secs(seconds) }
    }

    #[test]
    fn loading_lives_and_is_not_ready() {
        let health = Health::default();
        assert_eq!(health.ready().unwrap_err(), "nothing runs here yet");
        health.starting("sampler");
        assert_eq!(health.live(), Ok(()));
        assert_eq!(health.ready().unwrap_err(), "the sampler is loading");
        health.loaded("sampler", seconds(true, 1));
        assert_eq!((health.live(), health.ready()), (Ok(()), Ok(())));
        health.starting("encoder");
        assert_eq!(health.ready().unwrap_err(), "the encoder is loading", "every role counts");
        assert_eq!(health.by_stage(), [("sampler", true, true), ("encoder", false, false)]);
    }

    #[test]
    fn a_requirement_that_is_not_met_says_so_and_costs_readiness_only() {
        let health = Health::default();
        health.loaded("sampler", seconds(true, 1));
        health.requires("store", || Err("cannot write: AccessDenied".to_owned()));
        health.requires("broker", || Err("a right is missing".to_owned()));
        assert_eq!(health.ready().unwrap_err(), "cannot write: AccessDenied; a right is missing");
        assert_eq!((health.live(), health.by_stage()), (Ok(()), vec![("sampler", true, false)]));
        health.starting("encoder");
        health.requires("broker", || Ok(()));
        assert_eq!(health.ready().unwrap_err(), "cannot write: AccessDenied", "also while networks load");
        health.requires("store", || Ok(()));
        assert_eq!(health.ready().unwrap_err(), "the encoder is loading");
    }

    #[test]
    fn without_a_consumer_it_is_not_ready_at_once_and_not_alive_if_it_does_not_try() {
        let health = Health::default();
        health.loaded("sampler", seconds(false, 599));
        assert_eq!(health.ready().unwrap_err(), "the sampler does not consume");
        assert_eq!(health.live(), Ok(()));
        health.loaded("sampler", seconds(false, 601));
        assert_eq!(health.live().unwrap_err(), "the sampler has not tried to consume for 601 seconds");
        health.loaded("sampler", seconds(true, 100_000));
        assert_eq!(health.live(), Ok(()));
    }

    #[tokio::test]
    async fn a_device_fault_is_for_ever_and_whoever_waits_hears_of_it() {
        let health = Health::default();
        health.loaded("sampler", seconds(true, 1));
        let (told, ()) = tokio::join!(health.faulted(), async { health.device_fault("illegal address") });
        assert_eq!(told, "illegal address");
        health.device_fault("a later one");
        assert_eq!(health.faulted().await, "illegal address", "also after the fact");
        assert_eq!(health.ready().unwrap_err(), "the compute device is broken: illegal address");
        assert_eq!(health.live(), Ok(()), "what is in hand may be requeued");
        assert_eq!(health.by_stage(), [("sampler", true, false)]);
    }
}
