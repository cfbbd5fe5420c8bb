//! One trial: sends jobs, injects a fault meanwhile, and counts at the end.

use std::{fmt, time::Duration};

use echogen_protocol::{EventKind, Job};
use echogen_tests::{producer, role::RoleEnvironment, system::System};

/// The result of a scenario.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) jobs: usize,
    pub(crate) results: usize,
    pub(crate) events: u64,
    pub(crate) retold: u64,
    pub(crate) doubled: usize,
    pub(crate) lost: usize,
    pub(crate) restarts: u32,
    pub(crate) seconds: f64,
    /// What else was measured.
    pub(crate) notes: Vec<String>,
    /// Other violations of what the scenario promises.
    pub(crate) faults: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs, results, events, retold, doubled, lost, restarts, seconds, .. } = self;
        write!(
            f,
            "jobs {jobs:5}  results {results:5}  events {events:5} (repeated {retold})  doubled {doubled}  lost {lost}  \
             restarts {restarts}  {seconds:.1} s"
        )
    }
}

/// Timeout for all jobs to end after the fault is over.
const TIMEOUT: Duration = Duration::from_secs(150);

/// Creates jobs with unique ids; each subject is shared by three consecutive jobs.
pub(crate) fn jobs(count: usize) -> Vec<Job> {
    (0..count).map(|index| producer::job(&format!("good-{index}"), index as u64 / 3, "a dog on a beach")).collect()
}

/// A system under load.
pub(crate) struct Trial {
    pub(crate) system: System,
    began: std::time::Instant,
}

impl Trial {
    /// Starts the roles.
    pub(crate) async fn start(environment: &RoleEnvironment, ledger_url: &str) -> anyhow::Result<Self> {
        Ok(Self { system: System::start(environment, ledger_url).await?, began: std::time::Instant::now() })
    }

    /// Sends `jobs` over about the duration `spread` while `breaking` runs, and counts after all valid jobs have
    /// ended.
    pub(crate) async fn run(
        self,
        jobs: Vec<Job>,
        spread: Duration,
        breaking: impl AsyncFnOnce(&System) -> anyhow::Result<()>,
    ) -> anyhow::Result<Tally> {
        let ids: Vec<String> = jobs.iter().map(|job| job.id.to_string()).collect();
        let pause = spread / u32::try_from(jobs.len().max(1))?;
        let broker = self.system.broker.clone();
        let sending = async {
            for job in &jobs {
                producer::send(&broker, job).await?;
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
            anyhow::Ok(())
        };
        let late = self.until_ended(&ids, sending, breaking).await?;
        self.count(&ids, late).await
    }

    /// The same with all jobs sent at once. `others` are ids of jobs that `breaking` sends, and are counted too; `look` sees the
    /// system before it is stopped.
    pub(crate) async fn run_and_look<T>(
        self,
        jobs: Vec<Job>,
        others: &[String],
        breaking: impl AsyncFnOnce(&System) -> anyhow::Result<()>,
        look: impl FnOnce(&System) -> T,
    ) -> anyhow::Result<(Tally, T)> {
        let ids: Vec<String> = jobs.iter().map(|job| job.id.to_string()).chain(others.iter().cloned()).collect();
        let broker = self.system.broker.clone();
        let sending = async { Ok(producer::send_all(&broker, jobs, Duration::ZERO).await?) };
        let late = self.until_ended(&ids, sending, breaking).await?;
        let seen = look(&self.system);
        Ok((self.count(&ids, late).await?, seen))
    }

    /// The same with jobs that clients send otherwise: `working` returns their ids.
    pub(crate) async fn run_clients(
        self,
        working: impl AsyncFnOnce(&System) -> anyhow::Result<Vec<String>>,
    ) -> anyhow::Result<Tally> {
        let mut ids = Vec::new();
        let (nothing, into) = (async { Ok(()) }, &mut ids);
        let working = async |system: &System| {
            *into = working(system).await?;
            Ok(())
        };
        let late = self.until_ended(&[], nothing, working).await?;
        let late = late.or(self.system.until(TIMEOUT, |system| have_ended(system, &ids)).await.err());
        self.count(&ids, late).await
    }

    /// Runs both and waits until all jobs have ended; returns why not all have.
    async fn until_ended(
        &self,
        ids: &[String],
        sending: impl Future<Output = anyhow::Result<()>>,
        breaking: impl AsyncFnOnce(&System) -> anyhow::Result<()>,
    ) -> anyhow::Result<Option<anyhow::Error>> {
        let keeping = self.keep_alive();
        let both = async { tokio::try_join!(sending, breaking(&self.system)) };
        tokio::select! {
            // All jobs are sent and the fault has been injected and removed.
            done = both => drop(done?),
            // A role could not be restarted: `keep_alive` returns only with an error.
            failed = keeping => failed?,
        }
        Ok(self.system.until(TIMEOUT, |system| have_ended(system, ids)).await.err())
    }

    /// Restarts roles whose processes have died, until it is dropped.
    async fn keep_alive(&self) -> anyhow::Result<()> {
        loop {
            for role in &self.system.roles {
                role.revive()?;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn count(self, ids: &[String], late: Option<anyhow::Error>) -> anyhow::Result<Tally> {
        // Late duplicates would arrive within this time.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let ledger = &self.system.ledger;
        let results = self.system.results(ids).await?;
        let completed = ledger.of_kind(EventKind::Completed);
        let doubled = ledger.doubled();
        let lost: Vec<&String> = ids.iter().filter(|id| !ledger.has_ended(id)).collect();
        let mut faults: Vec<String> = late.iter().map(|error| format!("{error:#}")).collect();
        faults.extend(lost.iter().take(5).map(|id| format!("never ended: {id}, parked: {}", ledger.is_parked(id))));
        faults.extend(doubled.iter().take(5).map(|id| format!("ended twice: {id}")));
        let tally = Tally {
            jobs: ids.len(),
            results,
            events: completed,
            retold: ledger.told().saturating_sub(ledger.ends() as u64),
            doubled: doubled.len(),
            lost: lost.len().max(ids.len() - results),
            restarts: self.system.roles.iter().map(|role| role.starts() - 1).sum(),
            seconds: self.began.elapsed().as_secs_f64(),
            notes: Vec::new(),
            faults,
        };
        self.system.stop()?;
        Ok(tally)
    }
}

/// Whether all of these jobs have ended.
fn have_ended(system: &System, ids: &[String]) -> bool {
    ids.iter().all(|id| system.ledger.has_ended(id))
}
