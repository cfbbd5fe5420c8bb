//! One tenant has a backlog of thousands of jobs when fifty others send one job each, and a sampler dies.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use anyhow::Context;
use echogen_protocol::{Job, Partitions, RoleName};
use echogen_tests::{
    process::RoleProcess,
    producer,
    system::{Servers, System},
};
use futures::future::try_join_all;
use tokio::time::timeout;

use crate::trial::{Tally, Trial};

/// Jobs of the tenant with the backlog, unless the environment says otherwise.
const BACKLOG: usize = 3_000;

/// The variable with another number; 20,000 take minutes.
const BACKLOG_VARIABLE: &str = "CHAOS_BACKLOG";

/// Other tenants, each with one job.
const OTHERS: usize = 50;

/// Jobs of the backlog that may end, after the others were sent, before the last of the others has ended.
const PATIENCE: usize = 200;

/// Timeout for the others' jobs.
const TIMEOUT: Duration = Duration::from_secs(60);

const NEIGHBOUR: &str = "neighbour";

fn job_of(tenant: &str, id: String) -> Job {
    // A few known subjects: most of the work is the sampler's.
    let subject = id.len() as u64;
    Job { tenant: Some(tenant.to_owned()), ..producer::job(&id, subject, "a dog on a beach") }
}

/// The fifty end before 200 of the neighbour's jobs have, except those that share its partition.
pub(crate) async fn noisy_neighbour(servers: &Servers) -> anyhow::Result<Tally> {
    let mut environment = servers.environment();
    environment.partitions = Partitions::default().count();
    // Few places: what a worker has begun before the others came ends before theirs, and is not what is measured.
    environment.concurrency = 4;
    let mut trial = Trial::start(&environment, &environment.amqp_url).await?;
    trial.system.roles.push(RoleProcess::start(RoleName::Sampler, &environment)?);
    let count = std::env::var(BACKLOG_VARIABLE).map_or(Ok(BACKLOG), |count| count.parse()).context(BACKLOG_VARIABLE)?;
    let backlog: Vec<Job> = (0..count).map(|index| job_of(NEIGHBOUR, format!("backlog-{index}"))).collect();
    let ids: Vec<String> = backlog.iter().map(|job| job.id.to_string()).collect();
    let others: Vec<Job> =
        (0..OTHERS).map(|index| job_of(&format!("tenant-{index}"), format!("other-{index}"))).collect();
    let partition = |job: &Job| Partitions::default().of(job.tenant.as_deref());
    let noisy = Partitions::default().of(Some(NEIGHBOUR));
    let apart: Vec<&Job> = others.iter().filter(|job| partition(job) != noisy).collect();
    let sent = OnceLock::new();
    let breaking = async |system: &System| {
        let is_busy = |system: &System| system.ledger.ended() >= count / 20;
        system.until(TIMEOUT, is_busy).await.context("the neighbour's jobs begin to end")?;
        sent.get_or_init(Instant::now);
        // At once: fifty confirms one after the other would give the neighbour a second of its own.
        try_join_all(others.iter().map(|job| producer::send(&system.broker, job))).await?;
        system.roles.last().context("there are two samplers")?.kill_9();
        let all = |system: &System| apart.iter().all(|job| system.ledger.has_ended(job.id.as_str()));
        // Who has not ended by then is counted below.
        drop(timeout(TIMEOUT, system.until(TIMEOUT, all)).await);
        Ok(())
    };
    let apart_ids: Vec<String> = apart.iter().map(|job| job.id.to_string()).collect();
    let other_ids: Vec<String> = others.iter().map(|job| job.id.to_string()).collect();
    let look = |system: &System| {
        let heard = |id: &String| system.ledger.heard(id);
        let sent = sent.get().copied().unwrap_or_else(Instant::now);
        let mut ends: Vec<Instant> = apart_ids.iter().filter_map(heard).collect();
        ends.sort_unstable();
        let before = |end: Instant| ids.iter().filter_map(heard).filter(|heard| *heard > sent && *heard <= end).count();
        let [half, last] = [ends.len() / 2, ends.len().saturating_sub(1)].map(|index| ends.get(index).copied());
        let [half, last] = [half, last].map(|end| end.unwrap_or(sent));
        (last.duration_since(sent), before(half), before(last))
    };
    let (mut tally, (wait, half, before)) = trial.run_and_look(backlog, &other_ids, breaking, look).await?;
    tally.notes.push(format!(
        "{} of {OTHERS} tenants not in the neighbour's partition waited up to {:.1} s, while {before} of its jobs ended, {half} before \
         half of theirs",
        apart_ids.len(),
        wait.as_secs_f64()
    ));
    if before > PATIENCE {
        tally.faults.push(format!("{before} of the neighbour's jobs ended before the others'; {PATIENCE} may"));
    }
    Ok(tally)
}
