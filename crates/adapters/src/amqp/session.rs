//! Sessions with the broker: a connection and its channels, opened again on demand after they were lost.
//!
//! The lock of the slot is held while connecting, so that one caller connects and the others wait for it. It is never held
//! during a publish or a receive.

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
    config::Checked, declare::declare, error::port_error, event_route::EventRoute, poison_isolation::PoisonIsolation,
    publisher::Publisher, rights::MissingRights, topology::Topology,
};

/// The pauses between two attempts to connect. Each caller has its own backoff; these pauses limit the attempts of all
/// callers together.
const RECONNECT: Backoff = Backoff::doubling(0.1, 5.0);

/// For whom a broker is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// A role or an operator, who declares the topology.
    Installation,
    /// A client, who uses what is declared and needs no more rights than that.
    Client,
}

/// What all sessions of one broker handle share.
#[derive(Debug)]
pub(super) struct SessionContext {
    pub(super) settings: Checked,
    pub(super) topology: Topology,
    /// The tasks of the publishers.
    pub(super) tasks: TaskTracker,
    pub(super) poison_isolation: Arc<PoisonIsolation>,
    pub(super) event_route: EventRoute,
    pub(super) side: Side,
    pub(super) missing_rights: MissingRights,
}

impl SessionContext {
    /// Opens a connection for a single consumer; see [`poison_isolation`](super::poison_isolation).
    pub(super) async fn connect_isolated(&self) -> Result<Connection, Fault> {
        self.settings.servers.connect("consuming in isolation").await
    }
}

/// A connection with the channels that its purpose needs.
pub(super) trait Session: Sized + Send + Sync {
    /// What the connection is for, as the broker's management shows it.
    const PURPOSE: &'static str;

    fn open(
        connection: Connection,
        context: &SessionContext,
    ) -> impl Future<Output = Result<Self, lapin::Error>> + Send;

    /// Whether its connection and channels are open.
    fn is_open(&self) -> bool;

    fn connection(&self) -> &Connection;
}

/// A session for consuming; each consumer opens its own channel.
pub(super) struct ConsumeSession(Connection);

/// A session for publishing tasks.
pub(super) struct PublishSession {
    connection: Connection,
    pub(super) tasks: Publisher,
}

/// A session for publishing to queues of clients, which may be stuck: events and replies, each on a channel of its own.
pub(super) struct EventSession {
    connection: Connection,
    pub(super) events: Publisher,
    pub(super) replies: Publisher,
}

/// A session that all callers share, and that is opened again when it is needed after a loss.
pub(super) struct SharedSession<S> {
    context: Arc<SessionContext>,
    slot: Mutex<Slot<S>>,
}

struct Slot<S> {
    session: Option<Arc<S>>,
    /// Failed attempts to connect since the last successful one.
    failures: u32,
    /// The earliest time of the next attempt.
    not_before: Instant,
}

impl<S: Session> SharedSession<S> {
    pub(super) fn new(context: Arc<SessionContext>) -> Self {
        let slot = Slot { session: None, failures: 0, not_before: Instant::now() };
        Self { context, slot: Mutex::new(slot) }
    }

    /// The session, connected and, unless a client uses it, with the topology declared.
    pub(super) async fn get(&self) -> Result<Arc<S>, Fault> {
        let mut slot = self.slot.lock().await;
        if let Some(session) = slot.session.as_ref().filter(|session| session.is_open()) {
            return Ok(Arc::clone(session));
        }
        // Before the first await: after a failed or cancelled attempt the slot holds no session that is not open.
        slot.session = None;
        // The wait holds the lock: the other callers wait for this attempt instead of making their own.
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

    /// Declares the topology again on the present connection, because one of its queues no longer exists.
    pub(super) async fn declare_again(&self, session: &S) -> Result<(), Fault> {
        if self.context.side == Side::Client {
            let advice = "start a role, or run `echogen topology --declare`";
            return Err(Fault::not_found(format!("the installation's queues are not declared; {advice}")));
        }
        info!(purpose = S::PURPOSE, "a queue no longer exists, declaring the topology again");
        let limit = self.context.settings.connect_timeout;
        let declared = timeout(limit, self.declare(session.connection())).await;
        declared.unwrap_or_else(|_| Err(Fault::timed_out(format!("declaring took longer than {limit:?}"))))
    }

    /// Closes the connection, if there is one, and waits until the broker has read everything that was sent on it.
    pub(super) async fn close(&self) {
        let Some(session) = self.slot.lock().await.session.take() else { return };
        let closed = timeout(Duration::from_secs(5), session.connection().close(200, "done".into())).await;
        if let Ok(Err(error)) = closed {
            debug!(%error, purpose = S::PURPOSE, "the connection was not closed cleanly");
        }
    }

    /// Gives up a session whose channel does not answer; the next caller opens another. The connection is closed in the
    /// background, since the broker may have stopped reading it.
    pub(super) async fn replace(&self, session: &Arc<S>)
    where
        S: 'static,
    {
        let mut slot = self.slot.lock().await;
        if let Some(stuck) = slot.session.take_if(|present| Arc::ptr_eq(present, session)) {
            self.context.tasks.spawn(async move {
                drop(timeout(Duration::from_secs(5), stuck.connection().close(200, "stuck".into())).await);
            });
        }
    }

    async fn declare(&self, connection: &Connection) -> Result<(), Fault> {
        declare(connection, &self.context.topology, &self.context.missing_rights).await
    }

    async fn connect(&self) -> Result<S, Fault> {
        let (limit, place) = (self.context.settings.connect_timeout, &self.context.settings.servers);
        let connecting = async {
            let connection = self.context.settings.servers.connect(S::PURPOSE).await?;
            // The topology is declared before the session is given to a caller, which may publish or consume at once.
            if self.context.side == Side::Installation {
                self.declare(&connection).await?;
            }
            let opened = S::open(connection, &self.context).await;
            opened.map_err(|error| port_error(&format!("RabbitMQ at {place} gives no channel"), error))
        };
        let late = |_| Fault::timed_out(format!("RabbitMQ at {place} did not answer within {limit:?}"));
        let session = timeout(limit, connecting).await.map_err(late)??;
        info!(purpose = S::PURPOSE, %place, "connected to RabbitMQ");
        Ok(session)
    }
}

impl Session for ConsumeSession {
    const PURPOSE: &'static str = "consuming";

    async fn open(connection: Connection, _: &SessionContext) -> Result<Self, lapin::Error> {
        Ok(Self(connection))
    }

    fn is_open(&self) -> bool {
        self.0.status().connected()
    }

    fn connection(&self) -> &Connection {
        &self.0
    }
}

impl Session for PublishSession {
    const PURPOSE: &'static str = "publishing";

    async fn open(connection: Connection, context: &SessionContext) -> Result<Self, lapin::Error> {
        let tasks = Publisher::open(&connection, &context.tasks).await?;
        Ok(Self { connection, tasks })
    }

    fn is_open(&self) -> bool {
        self.connection.status().connected() && self.tasks.is_open()
    }

    fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl Session for EventSession {
    const PURPOSE: &'static str = "notifying";

    async fn open(connection: Connection, context: &SessionContext) -> Result<Self, lapin::Error> {
        let events = Publisher::open(&connection, &context.tasks).await?;
        let replies = Publisher::open(&connection, &context.tasks).await?;
        Ok(Self { connection, events, replies })
    }

    fn is_open(&self) -> bool {
        self.connection.status().connected() && self.events.is_open() && self.replies.is_open()
    }

    fn connection(&self) -> &Connection {
        &self.connection
    }
}
