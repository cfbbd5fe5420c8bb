//! The operations of the port [`Broker`].

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Broker, Browse, Browser, Consumer, Event, EventStream, Fault, Message, QueueName, Recipient};
use echogen_protocol::{Partitions, ReplyTo};
use lapin::{BasicProperties, types::ShortString};
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{
    browser::AmqpBrowser,
    config::AmqpConfig,
    consumer::AmqpConsumer,
    declare::{DepthReader, short},
    error::{is_not_found, port_error},
    event_route::{CONFIRM_TIMEOUT, EventRoute, Way},
    events::AmqpEvents,
    headers,
    liveness::{ConsumerRegistry, QueueConsumption},
    poison_isolation::SHORT_PAUSE,
    publisher::{Outcome, Outgoing, Publisher},
    rights::{self, MissingRights, Needs, missing, refused_resource},
    session::{ConsumeSession, EventSession, PublishSession, Session, SessionContext, SharedSession, Side},
    topology::{Route, Topology},
};

/// The wait that a caller is asked for when a queue is full.
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(500);

/// The time that the broker may take to report the depth of a queue.
const DEPTH_TIMEOUT: Duration = Duration::from_secs(5);

/// RabbitMQ as a [`Broker`]. Clones share connections.
#[derive(Clone)]
pub struct AmqpBroker {
    context: Arc<SessionContext>,
    publishing: Arc<SharedSession<PublishSession>>,
    consuming: Arc<SharedSession<ConsumeSession>>,
    notifying: Arc<SharedSession<EventSession>>,
    consumers: Arc<ConsumerRegistry>,
}

impl std::fmt::Debug for AmqpBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpBroker").field("servers", &self.context.settings.servers).finish_non_exhaustive()
    }
}

impl AmqpBroker {
    /// A broker with these settings, for a role or an operator; it connects at its first use.
    pub fn new(config: AmqpConfig) -> Result<Self, Fault> {
        Self::on_side(config, Side::Installation)
    }

    fn on_side(config: AmqpConfig, side: Side) -> Result<Self, Fault> {
        let settings = config.checked()?;
        let topology = Topology::of(&config);
        let (tasks, poison_isolation) = (TaskTracker::new(), Arc::default());
        let event_route = EventRoute::default();
        let missing_rights = MissingRights::default();
        let context = SessionContext { settings, topology, tasks, poison_isolation, event_route, side, missing_rights };
        let context = Arc::new(context);
        Ok(Self {
            publishing: Arc::new(SharedSession::new(Arc::clone(&context))),
            consuming: Arc::new(SharedSession::new(Arc::clone(&context))),
            notifying: Arc::new(SharedSession::new(Arc::clone(&context))),
            consumers: Arc::default(),
            context,
        })
    }

    /// The same, connected, and with the topology declared.
    pub async fn connect(config: AmqpConfig) -> Result<Self, Fault> {
        let broker = Self::new(config)?;
        broker.publishing.get().await?;
        broker.consuming.get().await?;
        Ok(broker)
    }

    /// For a client, connected. It declares nothing: it publishes jobs to the exchange for jobs, and listens to events with
    /// queues that the broker names, so it needs no rights beyond those.
    pub async fn connect_client(config: AmqpConfig) -> Result<Self, Fault> {
        let broker = Self::on_side(config, Side::Client)?;
        broker.publishing.get().await?;
        Ok(broker)
    }

    /// Connects, declares the topology, and tries every right that a role needs besides reading its queues, which
    /// consuming them tries. `replies`: whether the role publishes to clients' reply queues.
    pub async fn check_rights(&self, replies: bool) -> Result<(), Fault> {
        self.publishing.get().await?;
        let (session, topology) = (self.consuming.get().await?, &self.context.topology);
        let (listener, limit) = (topology.names().listener(), self.context.settings.connect_timeout);
        let needs = Needs { topology, listener: &listener, replies };
        let late = |_| Fault::timed_out(format!("RabbitMQ did not report the user's rights within {limit:?}"));
        let checked = timeout(limit, rights::check(session.connection(), &needs)).await.map_err(late)??;
        // The name of the queue differs each time and says nothing.
        let general = |right: String| right.replace(&listener, &format!("{}.*", topology.names().events()));
        self.context.missing_rights.replace(checked.into_iter().map(general).collect());
        match self.missing_rights() {
            missing if missing.is_empty() => Ok(()),
            missing => Err(Fault::refused(lacks(&missing))),
        }
    }

    /// The rights that the user was found to lack, such as `write on echogen.events`.
    pub fn missing_rights(&self) -> Vec<String> {
        self.context.missing_rights.all()
    }

    /// The partitions of tenants.
    pub fn partitions(&self) -> Partitions {
        self.context.topology.partitions()
    }

    /// What is declared on the broker.
    pub fn topology(&self) -> &Topology {
        &self.context.topology
    }

    /// For each queue that this process has tried to consume: whether messages are delivered. Between the loss of a
    /// connection and the next `consume`, none are.
    pub fn consumption(&self) -> Vec<QueueConsumption> {
        self.consumers.consumption()
    }

    /// For each of these queues that exists: how many messages are ready in it, as the broker counts them.
    pub async fn depths(&self, queues: &[QueueName]) -> Result<Vec<(QueueName, u32)>, Fault> {
        let session = self.consuming.get().await?;
        let (mut reader, mut depths) = (DepthReader::new(session.connection()), Vec::with_capacity(queues.len()));
        for queue in queues {
            let name = self.context.topology.names().queue(queue);
            let asked = timeout(DEPTH_TIMEOUT, reader.depth(&name)).await;
            let late =
                |_| Fault::timed_out(format!("RabbitMQ did not report the depth of {name} within {DEPTH_TIMEOUT:?}"));
            depths.extend(asked.map_err(late)??.map(|messages| (queue.clone(), messages)));
        }
        reader.close().await?;
        Ok(depths)
    }

    /// Closes the connections cleanly, after the broker has read everything that was sent. To be called last; a later use
    /// of the broker connects again.
    pub async fn close(&self) {
        self.notifying.close().await;
        // Publishing first: the acknowledgement of a task follows the confirm of what the task published, so the
        // connection that carries acknowledgements closes last.
        self.publishing.close().await;
        self.consuming.close().await;
    }

    async fn consume_shared(&self, name: &str, prefetch: u16) -> Result<AmqpConsumer, Fault> {
        let session = self.consuming.get().await?;
        let connection = session.connection();
        let mut opened = AmqpConsumer::open(connection, short(name)?, prefetch, &self.context.poison_isolation).await;
        if opened.as_ref().is_err_and(is_not_found) && self.context.topology.has_queue(name) {
            self.consuming.declare_again(&session).await?;
            opened = AmqpConsumer::open(connection, short(name)?, prefetch, &self.context.poison_isolation).await;
        }
        self.context.missing_rights.consumed(name, opened.as_ref().map(|_| ()));
        debug!(queue = name, prefetch, "consuming");
        opened.map_err(|error| self.not_consumed(name, error))
    }

    /// Consumes on a connection of its own; see [`poison_isolation`](super::poison_isolation).
    async fn consume_isolated(&self, name: &str, end: Instant) -> Result<AmqpConsumer, Fault> {
        let connection = self.context.connect_isolated().await?;
        let opened = AmqpConsumer::open(&connection, short(name)?, 1, &self.context.poison_isolation).await;
        debug!(queue = name, "consuming in isolation");
        opened.map(|consumer| consumer.isolated_on(connection, end)).map_err(|error| self.not_consumed(name, error))
    }

    fn not_consumed(&self, name: &str, error: lapin::Error) -> Fault {
        if is_not_found(&error) && !self.context.topology.has_queue(name) {
            return Fault::not_found(format!("there is no queue {name}")).because(error);
        }
        let is_unreadable = self.context.poison_isolation.start_if_opening_failed(&error);
        if missing(&error, "read").is_some() {
            return Fault::refused(format!("{name} is not consumed: {}", lacks(&[format!("read on {name}")])));
        }
        let error = port_error(&format!("{name} is not consumed"), error);
        if is_unreadable { error.retry_in(SHORT_PAUSE) } else { error }
    }

    async fn send(&self, queue: &QueueName, route: Route, message: Message) -> Result<(), Fault> {
        let mut properties = headers::properties(&message.headers)?;
        if let Some(wait) = route.wait {
            let milliseconds = wait.as_millis().to_string();
            properties = properties.with_expiration(short(&milliseconds)?);
        }
        let exchange = short(&route.exchange)?;
        let outgoing = self.outgoing(exchange, short(&route.routing_key)?, true, message.body, properties)?;
        let session = self.publishing.get().await?;
        match self.confirmed(&session.tasks, outgoing, &route.routing_key).await? {
            Outcome::Confirmed => Ok(()),
            Outcome::Rejected => {
                let exchange = &route.exchange;
                let message =
                    format!("the queue {queue} is full, or its nodes are unavailable: RabbitMQ rejected a message");
                Err(Fault::queue_full(format!("{message} to the exchange {exchange}")).retry_in(FULL_QUEUE_WAIT))
            }
            Outcome::Returned => Err(self.unroutable(&session, &route).await),
        }
    }

    fn outgoing(
        &self,
        exchange: ShortString,
        routing_key: ShortString,
        mandatory: bool,
        body: Bytes,
        properties: BasicProperties,
    ) -> Result<Outgoing, Fault> {
        let (size, limit) = (body.len(), self.context.settings.max_message_bytes);
        if size > limit {
            return Err(Fault::too_large(format!("the message has {size} bytes; the limit is {limit}")));
        }
        Ok(Outgoing { exchange, routing_key, mandatory, body, properties })
    }

    /// Publishes and waits for the confirm, no longer than the confirm timeout.
    async fn confirmed(&self, publisher: &Publisher, outgoing: Outgoing, to: &str) -> Result<Outcome, Fault> {
        let (limit, exchange) = (self.context.settings.confirm_timeout, outgoing.exchange.clone());
        match timeout(limit, publisher.publish(outgoing)).await {
            Ok(Some(Ok(outcome))) => Ok(outcome),
            Ok(Some(Err(error))) => Err(self.not_confirmed(&exchange, to, error)),
            Ok(None) => Err(Fault::unavailable(format!("a message for {to} was not sent: its channel is closed"))),
            Err(_) => Err(Fault::timed_out(format!(
                "RabbitMQ did not confirm a message for {to} within {limit:?}; it may be short of memory or disk"
            ))),
        }
    }

    /// The error for a message whose channel has closed. A missing right closes the channel of others' messages too: only for
    /// a message to the same exchange is it permanent.
    fn not_confirmed(&self, exchange: &ShortString, to: &str, error: lapin::Error) -> Fault {
        let what = format!("a message for {to} was not confirmed");
        if self.context.side == Side::Client && is_not_found(&error) {
            let advice = "start a role, or run `echogen topology --declare`";
            return Fault::not_found(format!("{what}: the exchange {exchange} is not declared; {advice}"));
        }
        let Some(right) = missing(&error, "write") else { return port_error(&what, error) };
        if self.context.side == Side::Installation {
            self.context.missing_rights.add(right.clone());
        }
        let is_own = match refused_resource(&error).as_deref() {
            Some("amq.default") => exchange.as_str().is_empty(),
            resource => resource == Some(exchange.as_str()),
        };
        let message = format!("{what}: {}", lacks(&[right]));
        if is_own { Fault::refused(message) } else { Fault::unavailable(message) }
    }

    /// The error for a returned message. A queue of the topology that no longer exists is declared again for the next
    /// attempt.
    async fn unroutable(&self, session: &PublishSession, route: &Route) -> Fault {
        let message = format!("no queue {} is bound to the exchange {}", route.routing_key, route.exchange);
        if !self.context.topology.has_queue(&route.routing_key) {
            return Fault::not_found(format!("{message}; start a dispatcher, or run `echogen topology --declare`"));
        }
        match self.publishing.declare_again(session).await {
            Ok(()) => Fault::unavailable(format!("{message}; it was declared anew")),
            Err(error) => error,
        }
    }

    async fn publish_to_subscribers(&self, topic: &str, body: Bytes) -> Result<(), Fault> {
        let session = self.notifying.get().await?;
        if let Way::Direct(direct) = self.context.event_route.choose() {
            let exchange = self.context.topology.names().events();
            let outgoing = self.event(&exchange, topic, body.clone())?;
            match timeout(CONFIRM_TIMEOUT, self.confirmed(&session.events, outgoing, &exchange)).await {
                Ok(outcome) if outcome.as_ref().is_ok_and(|outcome| *outcome == Outcome::Rejected) => {
                    let advice = "empty the queue, or remove its binding";
                    let message = format!("a subscriber's queue is full or unavailable and takes no event; {advice}");
                    return if direct.rejected() { Err(Fault::queue_full(message)) } else { Ok(()) };
                }
                Ok(outcome) => {
                    outcome?;
                    direct.confirmed();
                    return Ok(());
                }
                Err(_) => {
                    direct.stalled();
                    self.notifying.replace(&session).await;
                }
            }
        }
        // The session was replaced if its channel may be stuck; what that channel holds may have reached nobody.
        let session = self.notifying.get().await?;
        let relay = self.context.topology.names().event_relay();
        self.confirmed(&session.events, self.event(&relay, topic, body)?, &relay).await.map(drop)
    }

    fn event(&self, exchange: &str, topic: &str, body: Bytes) -> Result<Outgoing, Fault> {
        self.outgoing(short(exchange)?, short(topic)?, false, body, headers::event_properties())
    }

    async fn reply(&self, body: Bytes, reply: ReplyTo) -> Result<(), Fault> {
        let ReplyTo { queue, correlation_id } = reply;
        if self.context.topology.has_queue(&queue) {
            warn!(queue, "a client asked for replies in a queue of the installation; none is sent");
            return Ok(());
        }
        let Ok(routing_key) = ShortString::try_new(queue.as_str()) else {
            warn!("a client asked for replies in a queue whose name is longer than 255 bytes; none is sent");
            return Ok(());
        };
        let mut properties = headers::event_properties();
        if let Some(id) = correlation_id.and_then(|id| ShortString::try_new(id).ok()) {
            properties = properties.with_correlation_id(id);
        }
        let outgoing = self.outgoing(ShortString::default(), routing_key, true, body, properties)?;
        let session = self.notifying.get().await?;
        let sent = timeout(CONFIRM_TIMEOUT, self.confirmed(&session.replies, outgoing, &queue)).await;
        match sent {
            Ok(Ok(Outcome::Confirmed)) => Ok(()),
            Ok(Ok(Outcome::Rejected)) => {
                Err(Fault::queue_full(format!("the reply queue {queue} is full or unavailable")))
            }
            Ok(Ok(Outcome::Returned)) => Err(Fault::not_found(format!("there is no reply queue {queue}"))),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                // RabbitMQ would stop reading a connection that it owes many confirms.
                self.notifying.replace(&session).await;
                Err(Fault::timed_out(format!("the reply queue {queue} confirms nothing; it may have lost its leader")))
            }
        }
    }
}

/// What is said of missing rights.
fn lacks(rights: &[String]) -> String {
    format!("the user of broker.url lacks rights: {}; grant them with rabbitmqctl set_permissions", rights.join(", "))
}

#[async_trait]
impl Broker for AmqpBroker {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        let names = self.context.topology.names();
        let route = match self.context.side {
            Side::Installation => names.route(queue),
            Side::Client => names.client_route(queue),
        };
        self.send(queue, route, message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.send(queue, self.context.topology.names().delayed_route(queue, delay)?, message).await
    }

    async fn dead_letter(&self, queue: &QueueName, message: Message, reason: &str) -> Result<(), Fault> {
        let dead = queue.dead_letters();
        self.send(&dead, self.context.topology.names().route(&dead), message.parked(queue, reason)).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        // Before the first await: an attempt that hangs or fails shows as a queue that is not consumed.
        self.consumers.add_queue(queue);
        let name = self.context.topology.names().queue(queue);
        let consumer = match self.context.poison_isolation.end() {
            Some(end) => self.consume_isolated(&name, end).await,
            None => self.consume_shared(&name, prefetch).await,
        }?;
        self.consumers.add_consumer(queue, consumer.liveness());
        Ok(Box::new(consumer))
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        let Event { topic, body, recipient } = event;
        match recipient {
            Recipient::Subscribers => self.publish_to_subscribers(&topic, body).await,
            Recipient::ReplyQueue(reply) => self.reply(body, reply).await,
        }
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        let session = self.consuming.get().await?;
        let exchange = self.context.topology.names().events();
        // A queue with the installation's prefix needs no right to queues of other names; a client has no such right.
        let queue = match self.context.side {
            Side::Installation => self.context.topology.names().listener(),
            Side::Client => String::new(),
        };
        Ok(Box::new(AmqpEvents::open(session.connection(), &queue, &exchange, prefix).await?))
    }
}

#[async_trait]
impl Browse for AmqpBroker {
    async fn depth(&self, queue: &QueueName) -> Result<u64, Fault> {
        let depths = self.depths(std::slice::from_ref(queue)).await?;
        Ok(depths.first().map_or(0, |(_, messages)| u64::from(*messages)))
    }

    async fn browse(&self, queue: &QueueName, count: u64) -> Result<Box<dyn Browser>, Fault> {
        let session = self.consuming.get().await?;
        let name = self.context.topology.names().queue(queue);
        Ok(Box::new(AmqpBrowser::open(session.connection(), &name, count).await?))
    }
}
