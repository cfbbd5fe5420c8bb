//! One connection, made again by whoever needs it.
//!
//! The slot's lock is held while connecting, so that one caller connects and the others wait for it; it is never held
//! across a publish or a receive.

use std::{sync::Arc, time::Duration};

use echogen_ports::{Backoff, Fault};
use lapin::Connection;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::{
    caution::Caution, config::Checked, declare::declare, error::port_error, publisher::Publisher, refusals::Refusals,
    topology::Topology,
};

/// The pauses between two attempts to connect. Callers have backoffs of their own; these pauses
/// only keep many callers together from storming the broker.
const RECONNECT: Backoff = Backoff::doubling(0.1, 5.0);

/// What all connections of one broker handle have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Checked,
    pub(super) topology: Topology,
    /// The publishers' tasks.
    pub(super) tasks: TaskTracker,
    pub(super) caution: Arc<Caution>,
    pub(super) refusals: Refusals,
}

impl Shared {
    /// A connection for one consumer alone; see [`caution`](super::caution).
    pub(super) async fn connect_alone(&self) -> Result<Connection, Fault> {
        self.settings.servers.connect("consuming with care").await
    }
}

/// What is made of a connection when it is there.
pub(super) trait Session: Sized + Send + Sync {
    /// What the connection is for, as the broker's management shows it.
    const PURPOSE: &'static str;

    fn open(connection: Connection, shared: &Shared) -> impl Future<Output = Result<Self, lapin::Error>> + Send;

    /// Whether it can still be used.
    fn is_open(&self) -> bool;

    fn connection(&self) -> &Connection;
}

/// A connection that only consumes.
pub(super) struct Consuming(Connection);

/// A connection with its confirm channels: events do not wait behind tasks whose queue is slow.
pub(super) struct Publishing {
    connection: Connection,
    pub(super) tasks: Publisher,
    pub(super) events: Publisher,
}

/// The way to a session.
pub(super) struct Link<S> {
    shared: Arc<Shared>,
    slot: Mutex<Slot<S>>,
}

struct Slot<S> {
    session: Option<Arc<S>>,
    /// Attempts that failed since the last that did not.
    failures: u32,
    /// Nobody tries before this moment.
    not_before: Instant,
}

impl<S: Session> Link<S> {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let slot = Slot { session: None, failures: 0, not_before: Instant::now() };
        Self { shared, slot: Mutex::new(slot) }
    }

    /// The session, connected and with everything declared.
    pub(super) async fn session(&self) -> Result<Arc<S>, Fault> {
        let mut slot = self.slot.lock().await;
        if let Some(session) = slot.session.as_ref().filter(|session| session.is_open()) {
            return Ok(Arc::clone(session));
        }
        slot.session = None;
        sleep_until(slot.not_before).await;
        match self.connect().await {
            Ok(session) => {
                (slot.failures, slot.not_before) = (0, Instant::now() + RECONNECT.wait(1));
                Ok(Arc::clone(slot.session.insert(Arc::new(session))))
            }
            Err(error) => {
                slot.failures = slot.failures.saturating_add(1);
                slot.not_before = Instant::now() + RECONNECT.wait(slot.failures);
                Err(error)
            }
        }
    }

    /// Declares everything again on the present connection, because something that was declared is gone.
    pub(super) async fn declare_again(&self, session: &S) -> Result<(), Fault> {
        info!(purpose = S::PURPOSE, "a queue is gone, declaring all again");
        let limit = self.shared.settings.connect_timeout;
        let declared = timeout(limit, declare(session.connection(), &self.shared.topology)).await;
        declared.unwrap_or_else(|_| Err(Fault::timed_out(format!("declaring took longer than {limit:?}"))))
    }

    /// Closes the connection, if there is one, and waits until the broker has read all that was sent on it.
    pub(super) async fn close(&self) {
        let Some(session) = self.slot.lock().await.session.take() else { return };
        let closed = timeout(Duration::from_secs(5), session.connection().close(200, "done".into())).await;
        if let Ok(Err(error)) = closed {
            debug!(%error, purpose = S::PURPOSE, "connection was not closed in good order");
        }
    }

    async fn connect(&self) -> Result<S, Fault> {
        let (limit, place) = (self.shared.settings.connect_timeout, &self.shared.settings.servers);
        let connecting = async {
            let connection = self.shared.settings.servers.connect(S::PURPOSE).await?;
            declare(&connection, &self.shared.topology).await?;
            let opened = S::open(connection, &self.shared).await;
            opened.map_err(|error| port_error(&format!("RabbitMQ at {place} gives no channel"), error))
        };
        let late = |_| Fault::timed_out(format!("RabbitMQ at {place} did not answer within {limit:?}"));
        let session = timeout(limit, connecting).await.map_err(late)??;
        info!(purpose = S::PURPOSE, %place, "connected to RabbitMQ");
        Ok(session)
    }
}

impl Session for Consuming {
    const PURPOSE: &'static str = "consuming";

    async fn open(connection: Connection, _: &Shared) -> Result<Self, lapin::Error> {
        Ok(Self(connection))
    }

    fn is_open(&self) -> bool {
        self.0.status().connected()
    }

    fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Session for Publishing {
    const PURPOSE: &'static str = "publishing";

    async fn open(connection: Connection, shared: &Shared) -> Result<Self, lapin::Error> {
        let tasks = Publisher::open(&connection, &shared.tasks).await?;
        let events = Publisher::open(&connection, &shared.tasks).await?;
        Ok(Self { connection, tasks, events })
    }

    fn is_open(&self) -> bool {
        self.connection.status().connected() && self.tasks.is_open() && self.events.is_open()
    }

    fn connection(&self) -> &Connection {
        &self.connection
    }
}
