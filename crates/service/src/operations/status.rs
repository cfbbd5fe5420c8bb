//! `echogen status` and `echogen cancel`: where a job stands, and taking it back.

use std::{sync::Arc, time::Duration};

use echogen_adapters::S3ObjectStore;
use echogen_ports::{Broker, EventStream, ObjectKey, ObjectStore};
use echogen_protocol::{JobEvent, JobId, JobResult, JobStatus};
use echogen_worker::{Clock, JobCanceller, JobState, JobStatusBoard, ResultWriter};
use serde_json::json;
use tokio_util::task::TaskTracker;

use super::{
    arguments::{CancelArguments, StatusArguments},
    refused,
};
use crate::{
    failure::{Exit, Failure},
    report::{complain, print_json, print_line},
    session::block_on,
};

/// Bytes of a `result.json`.
const MAX_RESULT_BYTES: u64 = 16 * 1024 * 1024;

/// How often a watcher looks for itself, should an event have been missed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What is known of a job.
struct Known {
    state: Option<JobState>,
    result: Option<JobResult>,
}

/// Reads where jobs stand.
struct Watcher {
    board: JobStatusBoard,
    results: Arc<dyn ObjectStore>,
    bucket: Option<S3ObjectStore>,
    id: JobId,
    destination: Option<String>,
}

/// Runs `echogen status`.
pub(crate) fn status(arguments: &StatusArguments, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        let tracker = TaskTracker::new();
        let stores = arguments.stores.stores().await?;
        let watcher = Watcher {
            board: JobStatusBoard::start(arguments.stores.cache(&arguments.broker.amqp_prefix)?, &tracker),
            results: stores.results,
            bucket: stores.bucket,
            id: arguments.id.clone(),
            destination: arguments.destination.clone(),
        };
        let known = if arguments.watch {
            let broker = arguments.broker.connect().await?;
            let known = watcher.watch(&broker, as_json).await?;
            broker.close().await;
            known
        } else {
            watcher.look().await?
        };
        let addresses = watcher.addresses(known.result.as_ref(), arguments.presign).await?;
        watcher.print(&known, &addresses, as_json)
    })
}

impl Watcher {
    /// The result says how a job ended; the board, where it was last seen.
    async fn look(&self) -> Result<Known, Failure> {
        let state = match self.board.find(&self.id).await {
            Ok(state) => state,
            Err(error) => {
                complain(format_args!("warning: the scoreboard cannot be read: {error}"));
                None
            }
        };
        let prefix = self.destination.as_ref().map_or_else(String::new, |destination| format!("{destination}/"));
        let key = state.as_ref().map_or_else(|| format!("{prefix}{}/result.json", self.id), |s| s.result_key.clone());
        let key = ObjectKey::new(key).map_err(|error| Failure::usage(format!("the result's key {error}")))?;
        let bytes = self.results.get(&key, MAX_RESULT_BYTES).await;
        let bytes = bytes.map_err(|error| refused("the result cannot be read", &error))?;
        let result = match bytes {
            Some(bytes) => Some(serde_json::from_slice(&bytes).map_err(|error| {
                Failure::usage(format!("{key} is no result: {error}; remove it and send the job again"))
            })?),
            None => None,
        };
        Ok(Known { state, result })
    }

    /// Prints every step until the job has ended.
    async fn watch(&self, broker: &dyn Broker, as_json: bool) -> Result<Known, Failure> {
        let subscribed = broker.subscribe("job").await;
        let mut events = subscribed.map_err(|error| refused("events cannot be heard", &error))?;
        loop {
            let known = self.look().await?;
            if known.result.is_some() {
                return Ok(known);
            }
            let heard = tokio::time::timeout(LOOK_EVERY, self.next(&mut *events)).await;
            if let Ok(Some(event)) = heard {
                show(&event, as_json);
            }
        }
    }

    async fn next(&self, events: &mut dyn EventStream) -> Option<JobEvent> {
        loop {
            let event = events.next().await?.to_job();
            if let Some(event) = event.filter(|event| event.subject == self.id) {
                return Some(event);
            }
        }
    }

    async fn addresses(&self, result: Option<&JobResult>, seconds: Option<u64>) -> Result<Vec<String>, Failure> {
        let (Some(seconds), Some(result)) = (seconds, result) else { return Ok(Vec::new()) };
        let Some(bucket) = &self.bucket else {
            return Err(Failure::usage("only an s3:// store gives away addresses; leave --presign out"));
        };
        let mut addresses = Vec::with_capacity(result.images.len());
        for image in &result.images {
            let key = ObjectKey::new(image.key.clone()).map_err(|error| Failure::usage(error.to_string()))?;
            let address = bucket.presign(&key, Duration::from_secs(seconds)).await;
            addresses.push(address.map_err(|error| refused("no address can be given away", &error))?);
        }
        Ok(addresses)
    }

    fn print(&self, known: &Known, addresses: &[String], as_json: bool) -> Result<Exit, Failure> {
        let Known { state, result } = known;
        if state.is_none() && result.is_none() {
            let hint = "it may not have come to a dispatcher yet, or have another --destination";
            return Err(Failure::usage(format!("nothing is known of the job {}; {hint}", self.id)));
        }
        if as_json {
            print_json("status", &json!({ "id": self.id, "state": state, "result": result, "addresses": addresses }));
        } else {
            print_line(&in_words(&self.id, state.as_ref(), result.as_ref()));
            for image in result.iter().flat_map(|result| &result.images) {
                print_line(&format!("  {} (seed {}, {} x {})", image.key, image.seed, image.width, image.height));
            }
            addresses.iter().for_each(|address| print_line(&format!("  {address}")));
        }
        let failed = result.as_ref().is_some_and(|result| result.status != JobStatus::Completed);
        Ok(if failed { Exit::JobFailed } else { Exit::Success })
    }
}

fn show(event: &JobEvent, as_json: bool) {
    if as_json {
        print_json("event", event);
    } else {
        let word = event.kind.as_str();
        let scale = event.data.get("scale").zip(event.data.get("scales"));
        let more = scale.map_or_else(String::new, |(scale, of)| format!(" scale {scale} of {of}"));
        print_line(&format!("{} {word}{more}", event.time));
    }
}

fn in_words(id: &JobId, state: Option<&JobState>, result: Option<&JobResult>) -> String {
    match (result, state) {
        (Some(result), _) => {
            let word = serde_json::to_value(result.status).unwrap_or_default();
            let why = result.error.as_ref().map_or_else(String::new, |error| format!(": {}", error.message));
            format!("{id}: {} at {}{why}", word.as_str().unwrap_or("ended"), result.finished)
        }
        (None, Some(state)) => {
            let stage = state.stage.as_deref().unwrap_or("a client");
            let word = state.state.as_str();
            format!("{id}: {word} at {}, by the {stage}, attempt {}", state.updated, state.attempt)
        }
        (None, None) => format!("{id}: unknown"),
    }
}

/// Runs `echogen cancel`.
pub(crate) fn cancel(arguments: &CancelArguments, as_json: bool) -> Result<Exit, Failure> {
    block_on(async {
        let tracker = TaskTracker::new();
        let results = arguments.stores.stores().await?.results;
        let cache = arguments.stores.cache(&arguments.broker.amqp_prefix)?;
        let board = JobStatusBoard::start(cache, &tracker);
        let broker: Arc<dyn Broker> = Arc::new(arguments.broker.connect().await?);
        let writer = ResultWriter::new(results, broker, Clock::system(), env!("CARGO_PKG_VERSION"));
        let canceller = JobCanceller::new(writer.with_board(board.clone()), Some(board));
        let mut exit = Exit::Success;
        for id in &arguments.ids {
            let cancelled = canceller.cancel(id, arguments.destination.as_deref()).await;
            let cancelled = cancelled.map_err(|error| refused("the job cannot be cancelled", &error))?;
            if cancelled.status == JobStatus::Cancelled && !cancelled.is_sure {
                // Its word lies where only a job without a destination is sure to look.
                let hint = "if it has a destination of its own it may go on; give --destination";
                complain(format_args!("warning: the scoreboard knows nothing of {id}: {hint}"));
            }
            let status = serde_json::to_value(cancelled.status).unwrap_or_default();
            if as_json {
                print_json("cancel", &json!({ "id": id, "status": status, "new": cancelled.is_new }));
            } else if cancelled.is_new {
                print_line(&format!("{id}: cancelled"));
            } else {
                print_line(&format!("{id}: had ended already, as {}", status.as_str().unwrap_or("ended")));
            }
            if cancelled.status != JobStatus::Cancelled {
                exit = Exit::JobFailed;
            }
        }
        drop(canceller);
        tracker.close();
        tracker.wait().await;
        Ok(exit)
    })
}
