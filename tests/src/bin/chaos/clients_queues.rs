//! Scenarios in which queues and servers of clients are full, stuck or gone: no job waits for them, and every other client
//! hears of every job.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use echogen_ports::{Broker, Message};
use echogen_protocol::{Job, ReplyTo, StageTask, TaskHeaders};
use echogen_tests::{
    callback_server::{CallbackServer, hanging_server},
    producer,
    role::{CALLBACK_SECRET, RoleEnvironment},
    system::{Servers, System},
    troubled_client::{Trouble, TroubledClient},
};
use tokio::time::sleep;

use crate::{
    scenarios::heard_jobs,
    trial::{Tally, Trial, jobs},
};

/// Timeout for the good callbacks, while others hang.
const CALLBACK_TIMEOUT: Duration = Duration::from_secs(60);

/// A listener's queue goes bad while jobs run.
pub(crate) async fn listener(servers: &Servers, trouble: Trouble) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let breaking = async |_: &System| {
        let client = TroubledClient::connect(servers).await?;
        sleep(Duration::from_millis(500)).await;
        let (name, exchange) = (format!("{}-listener", environment.prefix), format!("{}.events", environment.prefix));
        client.declare(&name, trouble, Some(&exchange)).await?;
        if trouble == Trouble::Leaderless {
            client.stop_leader(&name).await?;
        }
        Ok(())
    };
    let mut tally = trial.run(jobs(400), Duration::from_secs(6), breaking).await?;
    if tally.seconds > 60.0 {
        tally.faults.push(format!("jobs waited for a listener: {} s", tally.seconds));
    }
    Ok(tally)
}

/// Every third job is to be answered in a queue that is full, one that has no leader, or one that does not exist.
pub(crate) async fn reply_queues(servers: &Servers) -> anyhow::Result<Tally> {
    let environment = servers.environment();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let answered: Vec<Job> = (0..150).map(|index| producer::job(&format!("asks-{index}"), index, "a dog")).collect();
    let breaking = async |system: &System| {
        let client = TroubledClient::connect(servers).await?;
        let queues = ["full", "leaderless", "gone"].map(|name| format!("{}-{name}", environment.prefix));
        client.declare(&queues[0], Trouble::Full, None).await?;
        client.declare(&queues[1], Trouble::Leaderless, None).await?;
        client.stop_leader(&queues[1]).await?;
        for (job, queue) in answered.iter().zip(queues.iter().cycle()) {
            let reply_to = Some(ReplyTo { queue: queue.clone(), correlation_id: None });
            let headers = TaskHeaders { reply_to, ..TaskHeaders::default() };
            system.broker.publish(&job.queue(), Message::of_task(job, &headers)).await?;
        }
        let all = |system: &System| answered.iter().all(|job| system.ledger.has_ended(job.id.as_str()));
        system.until(Duration::from_secs(60), all).await
    };
    trial.run(jobs(300), Duration::from_secs(4), breaking).await
}

/// Half of the jobs call a server that takes connections and never answers; the other half are called back in time.
pub(crate) async fn hanging_callbacks(servers: &Servers) -> anyhow::Result<Tally> {
    let server = CallbackServer::start(CALLBACK_SECRET)?;
    let (address, held) = hanging_server().await?;
    let environment = RoleEnvironment { certificates: server.certificate().to_owned(), ..servers.environment() };
    let called = |index: usize| if index.is_multiple_of(2) { server.url() } else { address.clone() };
    let jobs: Vec<Job> =
        jobs(300).into_iter().enumerate().map(|(index, job)| Job { callback: Some(called(index)), ..job }).collect();
    let good = jobs.iter().filter(|job| job.callback == Some(server.url()));
    let good: BTreeSet<String> = good.map(|job| job.id.to_string()).collect();
    let trial = Trial::start(&environment, &environment.amqp_url).await?;
    let mut unheard = BTreeSet::new();
    let waiting = async |_: &System| {
        let began = Instant::now();
        loop {
            unheard = good.difference(&heard_jobs(&server)).cloned().collect();
            if unheard.is_empty() || began.elapsed() > CALLBACK_TIMEOUT {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let mut tally = trial.run(jobs, Duration::from_secs(4), waiting).await?;
    held.abort();
    tally.lost = tally.lost.max(unheard.len());
    tally.faults.extend(unheard.iter().take(5).map(|id| format!("never called back: {id}")));
    Ok(tally)
}
