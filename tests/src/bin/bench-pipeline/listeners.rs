//! What a client whose queue or server is full, stuck or gone costs the other clients: how long they wait for the news of a
//! single job, and how many jobs end in a second.
#![expect(clippy::print_stdout, reason = "it reports to a person")]

use std::time::Instant;

use echogen_ports::{Broker, Message};
use echogen_protocol::{Job, JobId, ReplyTo, StageTask, TaskHeaders};
use echogen_tests::{
    callback_server::hanging_server,
    system::{Servers, System},
    troubled_client::{Trouble, TroubledClient},
};

use crate::{LIMIT, finish, load, ready, singles};

/// Number of jobs of the client that is in trouble; while they wait for it, the others are measured.
const TROUBLED: usize = 300;

/// What is wrong with a client.
#[derive(Clone, Copy, Debug)]
enum Weather {
    Fair,
    Listener(Trouble),
    ReplyQueue(Trouble),
    ReplyQueueGone,
    HangingCallbacks,
}

impl Weather {
    const ALL: [Self; 7] = [
        Self::Fair,
        Self::Listener(Trouble::Full),
        Self::Listener(Trouble::Leaderless),
        Self::ReplyQueue(Trouble::Full),
        Self::ReplyQueue(Trouble::Leaderless),
        Self::ReplyQueueGone,
        Self::HangingCallbacks,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Fair => "none",
            Self::Listener(Trouble::Full) => "a listener's queue is full",
            Self::Listener(Trouble::Leaderless) => "a listener's queue has no leader",
            Self::ReplyQueue(Trouble::Full) => "a reply queue is full",
            Self::ReplyQueue(Trouble::Leaderless) => "a reply queue has no leader",
            Self::ReplyQueueGone => "a reply queue is gone",
            Self::HangingCallbacks => "a callback server hangs",
        }
    }
}

/// Prints a table with a line for each kind of trouble.
pub(crate) async fn report(servers: &Servers, jobs: usize) -> anyhow::Result<()> {
    println!("| trouble | single job, p50, ms | p99, ms | jobs/s | of fair weather |\n|---|---|---|---|---|");
    let mut fair = None;
    for weather in Weather::ALL {
        let environment = servers.environment();
        let system = ready(&environment).await?;
        let (callback, held) = hanging_server().await?;
        let client = TroubledClient::connect(servers).await?;
        let queue = format!("{}-troubled", environment.prefix);
        let listens = matches!(weather, Weather::Listener(_)).then(|| format!("{}.events", environment.prefix));
        if let Weather::Listener(trouble) | Weather::ReplyQueue(trouble) = weather {
            client.declare(&queue, trouble, listens.as_deref()).await?;
            if trouble == Trouble::Leaderless {
                client.stop_leader(&queue).await?;
            }
        }
        ask(&system, weather, &queue, &callback).await?;
        let [p50, _, p99] = singles(&system).await?;
        let began = Instant::now();
        finish(&system, (0..jobs as u64).map(|index| load(index, 10_000 + index)).collect()).await?;
        let speed = jobs as f64 / began.elapsed().as_secs_f64();
        let share = speed / *fair.get_or_insert(speed);
        println!("| {} | {p50:.1} | {p99:.1} | {speed:.0} | {share:.2} |", weather.name());
        held.abort();
        system.stop()?;
    }
    Ok(())
}

/// The troubled client's jobs, which end before the others are measured; the news of them waits for the client.
async fn ask(system: &System, weather: Weather, queue: &str, callback: &str) -> anyhow::Result<()> {
    let replies = matches!(weather, Weather::ReplyQueue(_) | Weather::ReplyQueueGone);
    let calls = matches!(weather, Weather::HangingCallbacks);
    let due = system.ledger.ended() + TROUBLED;
    for index in 0..TROUBLED as u64 {
        let job = load(index, index);
        let id = JobId(format!("troubled-{index}"));
        let job = Job { id, callback: calls.then(|| callback.to_owned()), ..job };
        let reply_to = replies.then(|| ReplyTo { queue: queue.to_owned(), correlation_id: None });
        let headers = TaskHeaders { reply_to, ..TaskHeaders::default() };
        system.broker.publish(&job.queue(), Message::of_task(&job, &headers)).await?;
    }
    system.until(LIMIT, |system| system.ledger.ended() >= due).await
}
