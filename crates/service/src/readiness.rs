//! Whether the servers let the roles of this process work: what `/readyz` requires besides networks and consumers.
//!
//! | what is checked | a role that fails it |
//! |---|---|
//! | both stores: write, read, write only if absent | begins no work, and is not ready |
//! | the user's rights at the broker | begins no work, and is not ready |
//! | the cache | works: a cache costs time only. It is ready, unless a person must change a setting or a rule |
//!
//! All are checked before a role begins to work, and then at intervals. No failure ends the process: a restart would cost
//! the networks and mend nothing. Each change is logged once.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use echogen_adapters::{amqp::AmqpBroker, probe_store};
use echogen_ports::{Backoff, Cache, Fault, ObjectKey, ObjectStore, clamped_seconds};
use echogen_protocol::RoleName;
use echogen_telemetry::Health;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{Backends, Failure, config::ServiceConfig, failure::on_one_line};

/// The pauses between checks until everything is as it must be.
const AGAIN: Backoff = Backoff::doubling(1.0, 15.0);

/// One requirement, and what its last check said.
#[derive(Clone, Debug)]
struct Requirement {
    name: &'static str,
    state: Arc<Mutex<Result<(), String>>>,
}

impl Requirement {
    /// Not met until it is checked.
    fn new(health: &Health, name: &'static str) -> Self {
        let requirement = Self { name, state: Arc::new(Mutex::new(Err(format!("the {name} has not answered yet")))) };
        let asked = requirement.clone();
        health.requires(name, move || asked.lock().clone());
        requirement
    }

    /// Records the outcome of a check; returns whether the requirement is met.
    fn checked(&self, outcome: Result<(), Fault>) -> bool {
        let outcome = outcome.map_err(|fault| (fault.is_permanent(), format!("the {}: {}", self.name, fault.story())));
        let now = outcome.clone().map_err(|(_, why)| on_one_line(&why));
        let mut state = self.lock();
        if *state != now {
            match &outcome {
                Ok(()) => info!(requirement = self.name, "as it must be"),
                Err((true, why)) => {
                    error!(requirement = self.name, error = %on_one_line(why), "a person must change this")
                }
                Err((false, why)) => warn!(requirement = self.name, error = %on_one_line(why), "not as it must be"),
            }
        }
        let is_met = now.is_ok();
        *state = now;
        is_met
    }

    fn lock(&self) -> MutexGuard<'_, Result<(), String>> {
        // A poisoned lock can be used: the value is replaced as a whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The checks of a process.
pub(crate) struct Readiness {
    stores: [(Requirement, Arc<dyn ObjectStore>); 2],
    key: ObjectKey,
    cache: Arc<dyn Cache>,
    cache_state: Requirement,
    cache_is_away: AtomicBool,
    broker: Arc<AmqpBroker>,
    rights: Requirement,
    /// Whether a role of this process publishes to clients' reply queues.
    replies: bool,
    every: Duration,
}

impl Readiness {
    /// The checks for these roles, which are ready by `health` only once these have passed; nothing is checked yet.
    pub(crate) fn new(
        health: &Health,
        roles: &[RoleName],
        backends: &Backends,
        broker: &Arc<AmqpBroker>,
        config: &ServiceConfig,
    ) -> Result<Self, Failure> {
        let who = if let [role] = roles { role.as_str() } else { "all" };
        let key = ObjectKey::new(format!("echogen-probe/{who}.json"));
        let key = key.map_err(|error| Failure::usage(format!("the probe's key {error}")))?;
        let store = |name, store: &Arc<dyn ObjectStore>| (Requirement::new(health, name), Arc::clone(store));
        Ok(Self {
            stores: [store("result store", &backends.results), store("work store", &backends.work)],
            key,
            cache: Arc::clone(&backends.cache),
            cache_state: Requirement::new(health, "cache"),
            cache_is_away: AtomicBool::new(false),
            broker: Arc::clone(broker),
            rights: broker_requirement(health, broker),
            replies: roles.contains(&RoleName::Dispatcher),
            every: clamped_seconds(config.telemetry.probe_seconds),
        })
    }

    /// Checks again and again until the roles may begin to work.
    ///
    /// # Errors
    ///
    /// The broker refuses the connection, or the topology is another one: as with any wrong setting, nothing is run.
    pub(crate) async fn until_able(&self) -> Result<(), Failure> {
        let mut checks = 0;
        while !self.check().await? {
            checks += 1;
            tokio::time::sleep(AGAIN.wait(checks)).await;
        }
        Ok(())
    }

    /// Checks at intervals until `end`.
    pub(crate) async fn watch(self, end: CancellationToken) {
        let mut failures = 0;
        loop {
            let wait = match (failures, self.every.is_zero()) {
                (0, true) => return end.cancelled().await,
                (0, false) => self.every,
                (failures, true) => AGAIN.wait(failures),
                (failures, false) => AGAIN.wait(failures).min(self.every),
            };
            let check = async {
                tokio::time::sleep(wait).await;
                // A broker that refuses now has let this process work before: its roles report that themselves.
                self.check().await.unwrap_or(false)
            };
            let Some(is_able) = end.run_until_cancelled(check).await else { return };
            failures = if is_able { 0 } else { failures + 1 };
        }
    }

    /// Checks everything once; returns whether the roles can work. An error: the broker refuses what no right would allow.
    async fn check(&self) -> Result<bool, Failure> {
        let [results, work] = &self.stores;
        let (results, work, rights, ()) = tokio::join!(
            self.check_store(results),
            self.check_store(work),
            self.broker.check_rights(self.replies),
            self.check_cache(),
        );
        let is_refused = |fault: &&Fault| fault.is_permanent() && self.broker.missing_rights().is_empty();
        let refused = rights.as_ref().err().filter(is_refused);
        let refused = refused.map(|fault| Failure::refused("RabbitMQ cannot be used", fault));
        // In any case, so that a password that is changed later shows.
        let has_rights = self.rights.checked(rights);
        match refused {
            Some(failure) => Err(failure),
            None => Ok(has_rights && results && work),
        }
    }

    async fn check_store(&self, (requirement, store): &(Requirement, Arc<dyn ObjectStore>)) -> bool {
        requirement.checked(probe_store(&**store, &self.key).await)
    }

    async fn check_cache(&self) {
        let checked = self.cache.check().await;
        let is_away = checked.as_ref().is_err_and(|fault| !fault.is_permanent());
        let was_away = self.cache_is_away.swap(is_away, Ordering::Relaxed);
        match checked {
            Err(fault) if is_away => {
                if !was_away {
                    warn!(error = %fault, "the cache cannot be used; jobs go on and take longer");
                }
                self.cache_state.checked(Ok(()));
            }
            checked => {
                self.cache_state.checked(checked);
            }
        }
        if was_away && !is_away {
            info!("the cache answers again");
        }
    }
}

/// The broker's requirement, which is not met either while a right is missing that was found by its use.
fn broker_requirement(health: &Health, broker: &Arc<AmqpBroker>) -> Requirement {
    let requirement = Requirement::new(health, "broker");
    let (asked, broker) = (requirement.clone(), Arc::clone(broker));
    health.requires("broker", move || {
        asked.lock().clone()?;
        match broker.missing_rights() {
            missing if missing.is_empty() => Ok(()),
            missing => Err(format!("the broker: the user of broker.url lacks rights: {}", missing.join(", "))),
        }
    });
    requirement
}

#[cfg(test)]
mod tests;
