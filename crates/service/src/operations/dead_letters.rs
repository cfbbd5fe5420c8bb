//! `echogen dead-letters`: looks at what was parked, sends it back, or throws it away.
//!
//! Dead letters are taken as a consumer takes them: those that are only looked at go back when the consumer ends.

use std::time::Duration;

use echogen_ports::{Broker, DEAD_LETTER_REASON, Delivery, Message, QueueName};
use echogen_protocol::{Task, TaskHeaders};
use serde_json::json;

use super::{
    arguments::{BrokerOptions, Chosen, DeadLettersCommand},
    refused,
    roles::RoleName,
    watch::queues_of_roles,
};
use crate::{
    failure::{Exit, Failure},
    report::{print_json, print_line},
    session::block_on,
};

/// Dead letters that are looked at of each queue; the rest come after these have gone.
const AT_ONCE: u16 = 10_000;

/// How long a queue stays silent before it counts as empty.
const SILENCE: Duration = Duration::from_millis(700);

/// What is done with those chosen.
#[derive(Clone, Copy, PartialEq)]
enum Action {
    List,
    Show,
    Redrive,
    Drop,
}

/// Runs `echogen dead-letters`.
pub(crate) fn run(command: &DeadLettersCommand, as_json: bool) -> Result<Exit, Failure> {
    match command {
        DeadLettersCommand::List { broker } => act(broker, Action::List, None, as_json),
        DeadLettersCommand::Show(chosen) => act(&chosen.broker, Action::Show, Some(chosen), as_json),
        DeadLettersCommand::Redrive(chosen) => act(&chosen.broker, Action::Redrive, Some(chosen), as_json),
        DeadLettersCommand::Drop(chosen) => act(&chosen.broker, Action::Drop, Some(chosen), as_json),
    }
}

fn act(options: &BrokerOptions, action: Action, chosen: Option<&Chosen>, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        let broker = options.connect().await?;
        let mut count = 0;
        for (_, _, queue) in queues_of_roles(&RoleName::ALL) {
            count += act_on(&broker, &queue, action, chosen, as_json).await?;
        }
        broker.close().await;
        if !as_json {
            let done = match action {
                Action::List | Action::Show => "parked",
                Action::Redrive => "sent back",
                Action::Drop => "thrown away",
            };
            print_line(&format!("{count} {done}"));
        }
        // Somebody who names a job expects it to be there.
        let missing = count == 0 && chosen.is_some_and(|chosen| !chosen.all);
        Ok(if missing { Exit::JobFailed } else { Exit::Success })
    })
}

async fn act_on(
    broker: &dyn Broker,
    queue: &QueueName,
    action: Action,
    chosen: Option<&Chosen>,
    as_json: bool,
) -> Result<u64, Failure> {
    let fault = |error| refused("dead letters cannot be reached", &error);
    let mut consumer = broker.consume(&queue.dead_letters(), AT_ONCE).await.map_err(fault)?;
    // Those not chosen are held until the end: put back at once, they would come again.
    let (mut held, mut count) = (Vec::new(), 0);
    while let Ok(received) = tokio::time::timeout(SILENCE, consumer.receive()).await {
        let Some(delivery) = received.map_err(fault)? else { break };
        let headers = TaskHeaders::from_map(&delivery.message.headers);
        if !is_chosen(chosen, &headers, &delivery.message) {
            held.push(delivery);
            continue;
        }
        count += 1;
        match action {
            Action::List | Action::Show => {
                show(queue, &delivery, &headers, action == Action::Show, as_json);
                held.push(delivery);
            }
            Action::Redrive => {
                broker.publish(queue, anew(&delivery.message)).await.map_err(fault)?;
                delivery.ack().await.map_err(fault)?;
            }
            Action::Drop => delivery.ack().await.map_err(fault)?,
        }
        if held.len() >= usize::from(AT_ONCE) {
            break;
        }
    }
    drop(held);
    Ok(count)
}

fn is_chosen(chosen: Option<&Chosen>, headers: &TaskHeaders, message: &Message) -> bool {
    let Some(chosen) = chosen.filter(|chosen| !chosen.all) else { return true };
    let id = headers.job.clone().or_else(|| Some(Task::parse(&message.body).ok()?.job_id().to_string()));
    id.is_some_and(|id| chosen.jobs.contains(&id))
}

/// The message as it was first sent: its attempts count from the beginning.
fn anew(message: &Message) -> Message {
    let headers = TaskHeaders { failures: 0, last_error: None, ..TaskHeaders::from_map(&message.headers) };
    Message { body: message.body.clone(), headers: headers.to_map() }
}

fn show(queue: &QueueName, delivery: &Delivery, headers: &TaskHeaders, whole: bool, as_json: bool) {
    let message = &delivery.message;
    let reason = message.headers.get(DEAD_LETTER_REASON).map_or("the broker's own limit", String::as_str);
    let job = headers.job.as_deref().unwrap_or("?");
    let body = String::from_utf8_lossy(&message.body);
    if as_json {
        let mut value = json!({ "job": job, "queue": queue.as_str(), "reason": reason, "failures": headers.failures });
        if whole {
            value["headers"] = json!(message.headers);
            value["body"] = serde_json::from_str(&body).unwrap_or_else(|_| json!(body));
        }
        print_json("dead-letter", &value);
        return;
    }
    print_line(&format!("{job}  {queue}  {reason}"));
    if whole {
        message.headers.iter().for_each(|(name, text)| print_line(&format!("  {name}: {text}")));
        print_line(&format!("  {body}"));
    }
}
