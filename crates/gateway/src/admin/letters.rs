//! Dead letters: which there are, and what is done about them. Nothing is done before the exact number was given back.
//!
//! Letters that are looked at are hidden from others meanwhile, so a gateway does one thing at a time with them.

use std::time::Duration;

use axum::{
    Json,
    body::Body,
    extract::{Query, State},
};
use echogen_ports::Fault;
use echogen_worker::dead_letters::{Action, Chosen, DeadLetter, Interrupted, Outcome, Progress, act, queues_named};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Gateway, body,
    jobs::{page_limit, tenant_of},
    problem::{Kind, Problem, quoted},
    request::parsed,
};

/// Letters of a page, unless the request says how many.
const PAGE: u64 = 100;

/// Letters of the largest page.
const MAX_PAGE: u64 = 500;

/// The time in which letters are looked at for one request.
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// Bytes of a request.
const MAX_BYTES: u64 = 16 * 1024;

/// Which dead letters are listed.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LetterQuery {
    /// Of this stage, or of this queue.
    queue: Option<String>,
    /// Whose reason contains this text, in upper or lower case.
    reason: Option<String>,
    /// Of this job.
    job: Option<String>,
    /// Of this tenant's jobs.
    tenant: Option<String>,
    /// Letters of a page, up to 500.
    #[schemars(range(min = 1, max = 500))]
    limit: Option<u64>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Dead letters that something is to be done about: those that meet every condition.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LettersRequest {
    /// Of this stage, or of this queue.
    queue: Option<String>,
    /// Whose reason contains this text, in upper or lower case.
    reason: Option<String>,
    /// Of this job.
    job: Option<String>,
    /// Of this tenant's jobs.
    tenant: Option<String>,
    /// At most so many, the oldest of each queue first.
    limit: Option<u64>,
    /// How many these are. Absent: they are only counted.
    confirm: Option<u64>,
}

/// A page of dead letters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LetterList {
    /// The letters, queue by queue, the oldest first.
    pub data: Vec<Letter>,
    /// Where the next page begins, as `after`; null on the last one. Letters that leave meanwhile move the pages.
    pub next: Option<String>,
}

/// A task that was parked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Letter {
    /// The queue in which it failed, without the installation's prefix.
    pub queue: String,
    /// The stage of this queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Its job, if one can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Whose job it is, if it came through a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Why it was parked.
    pub reason: String,
    /// Attempts that failed.
    pub attempt: u32,
    /// When it was parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// What was done about dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LettersSettled {
    /// How many there are; without `confirm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// To how many it was done; with `confirm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// How many their queue did not take, because they are too large; they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
}

impl From<&DeadLetter> for Letter {
    fn from(letter: &DeadLetter) -> Self {
        Self {
            queue: letter.queue.to_string(),
            stage: letter.stage().map(|stage| stage.to_string()),
            tenant: letter.job.as_deref().and_then(tenant_of).map(str::to_owned),
            job: letter.job.clone(),
            reason: letter.reason().to_owned(),
            attempt: letter.headers.failures,
            since: letter.since(),
        }
    }
}

fn chosen(
    queue: Option<&String>,
    reason: Option<String>,
    job: Option<String>,
    tenant: Option<String>,
) -> Result<Chosen, Problem> {
    let named = |name: &String| {
        let unknown = || Problem::field("/queue", format!("{} is no stage and no queue", quoted(name)));
        queues_named(name).ok_or_else(unknown)
    };
    let queues = queue.map(named).transpose()?.unwrap_or_default();
    let (jobs, queues) = (job.into_iter().collect(), queues.into_iter().collect());
    Ok(Chosen { jobs, queues, tenant, reason, ..Chosen::default() })
}

/// `GET /admin/dead-letters`
pub(crate) async fn list_letters(
    State(gateway): State<Gateway>,
    Query(query): Query<LetterQuery>,
) -> Result<Json<LetterList>, Problem> {
    let LetterQuery { queue, reason, job, tenant, limit, after } = query;
    let limit = page_limit(limit, PAGE, MAX_PAGE)?;
    let wrong = |_| Problem::field("/after", "is no cursor of a page");
    let skipped: u64 = after.map(|after| after.parse()).transpose().map_err(wrong)?.unwrap_or(0);
    let wanted = skipped.saturating_add(limit);
    let chosen = Chosen { limit: Some(wanted), ..chosen(queue.as_ref(), reason, job, tenant)? };
    let _turn = gateway.letters.lock().await;
    let (mut seen, mut data) = (0, Vec::new());
    let each = |progress: Progress<'_>| {
        if let Progress::Done(letter) = progress {
            seen += 1;
            if seen > skipped {
                data.push(Letter::from(letter));
            }
        }
    };
    let outcome = gateway.look(&chosen, each).await?;
    Ok(Json(LetterList { data, next: (outcome.done == wanted).then(|| wanted.to_string()) }))
}

/// `POST /admin/dead-letters/redrive`
pub(crate) async fn redrive_letters(
    State(gateway): State<Gateway>,
    body: Body,
) -> Result<Json<LettersSettled>, Problem> {
    settle(gateway, Action::Redrive, body).await
}

/// `POST /admin/dead-letters/drop`
pub(crate) async fn drop_letters(State(gateway): State<Gateway>, body: Body) -> Result<Json<LettersSettled>, Problem> {
    settle(gateway, Action::Delete, body).await
}

async fn settle(gateway: Gateway, action: Action, body: Body) -> Result<Json<LettersSettled>, Problem> {
    let json = body::read(body, MAX_BYTES, gateway.config.body_bytes_per_second).await?;
    let LettersRequest { queue, reason, job, tenant, limit, confirm } = parsed(&json)?;
    let chosen = Chosen { limit, ..chosen(queue.as_ref(), reason, job, tenant)? };
    // To its end, also if the caller goes away: a letter that was published is removed too.
    let tracker = gateway.tracker.clone();
    let settled = tracker.spawn(async move { gateway.settle(action, chosen, confirm).await }).await;
    Ok(Json(settled.map_err(|error| Fault::internal("a run over dead letters panicked").because(error))??))
}

impl Gateway {
    /// Looks through dead letters, and leaves them where they are.
    async fn look(&self, chosen: &Chosen, each: impl FnMut(Progress<'_>) + Send) -> Result<Outcome, Problem> {
        let stop = self.shutdown.child_token();
        let looking = act(&*self.ports.browse, Action::List, chosen, &stop, each);
        let mut looking = std::pin::pin!(looking);
        let looked = tokio::select! {
            looked = looking.as_mut() => looked,
            () = tokio::time::sleep(LONGEST_LOOK) => {
                stop.cancel();
                // It returns the letters that it has taken.
                looking.await
            }
        };
        match looked {
            Ok(outcome) if outcome.stopped => Err(Problem::new(
                Kind::Unavailable,
                "there are too many dead letters to look through in one request; use `echogen dead-letters`",
            )),
            Ok(outcome) => Ok(outcome),
            Err(interrupted) => Err(interrupted.fault.into()),
        }
    }

    async fn settle(&self, action: Action, chosen: Chosen, confirm: Option<u64>) -> Result<LettersSettled, Problem> {
        let _turn = self.letters.lock().await;
        let count = self.look(&chosen, |_| ()).await?.done;
        let Some(confirm) = confirm else {
            return Ok(LettersSettled { count: Some(count), ..LettersSettled::default() });
        };
        if confirm != count {
            let detail = format!("{count} dead letters meet the conditions now, not {confirm}; nothing was done");
            return Err(Problem::new(Kind::Conflict, detail));
        }
        // Those that have come since it was counted stay.
        let chosen = Chosen { limit: Some(count), ..chosen };
        let acted = act(&*self.ports.browse, action, &chosen, &self.shutdown, |_| ()).await;
        let Outcome { done, refused, .. } = acted.map_err(|interrupted| broken_off(action, &interrupted))?;
        tracing::info!(done, refused, "dead letters were {}", action.done());
        Ok(LettersSettled { done: Some(done), refused: (refused > 0).then_some(refused), ..LettersSettled::default() })
    }
}

fn broken_off(action: Action, interrupted: &Interrupted) -> Problem {
    let Interrupted { fault, outcome } = interrupted;
    tracing::warn!(error = %fault.story(), done = outcome.done, "a run over dead letters broke off");
    let detail = format!("the broker cannot be used; {} were {} before, look again", outcome.done, action.done());
    Problem::new(Kind::Unavailable, detail)
}
