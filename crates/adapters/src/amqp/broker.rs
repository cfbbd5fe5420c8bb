//! The port's verbs.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use echogen_ports::{Broker, Consumer, DEAD_LETTER_REASON, Event, EventStream, Fault, Message, QueueName};
use echogen_protocol::ReplyTo;
use lapin::{BasicProperties, types::ShortString};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{
    caution::SHORT_PAUSE,
    config::AmqpConfig,
    consumer::AmqpConsumer,
    declare::{depth, short},
    error::{is_not_found, port_error},
    events::AmqpEvents,
    headers,
    link::{Consuming, Link, Publishing, Session, Shared},
    liveness::{self, Liveness},
    publisher::{Outcome, Outgoing, Publisher},
    refusals::Refusals,
    topology::{Route, Topology},
};

/// How long whoever finds a queue full is asked to wait.
const FULL_QUEUE_WAIT: Duration = Duration::from_millis(500);

/// The time that the broker may take to say what is in a queue.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// RabbitMQ as a [`Broker`]. Clones share connections.
#[derive(Clone)]
pub struct AmqpBroker {
    shared: Arc<Shared>,
    publishing: Arc<Link<Publishing>>,
    consuming: Arc<Link<Consuming>>,
    liveness: Arc<Liveness>,
}

impl std::fmt::Debug for AmqpBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpBroker").field("servers", &self.shared.settings.servers).finish_non_exhaustive()
    }
}

impl AmqpBroker {
    /// A broker with these settings; it connects when it is first used.
    pub fn new(config: AmqpConfig) -> Result<Self, Fault> {
        let settings = config.checked()?;
        let topology = Topology::of(&config);
        let (tasks, caution, refusals) = (TaskTracker::new(), Arc::default(), Refusals::default());
        let shared = Arc::new(Shared { settings, topology, tasks, caution, refusals });
        Ok(Self {
            publishing: Arc::new(Link::new(Arc::clone(&shared))),
            consuming: Arc::new(Link::new(Arc::clone(&shared))),
            liveness: Arc::default(),
            shared,
        })
    }

    /// The same, connected, and with all exchanges and queues declared.
    pub async fn connect(config: AmqpConfig) -> Result<Self, Fault> {
        let broker = Self::new(config)?;
        broker.publishing.session().await?;
        broker.consuming.session().await?;
        Ok(broker)
    }

    /// What is declared on the broker.
    pub fn topology(&self) -> &Topology {
        &self.shared.topology
    }

    /// For each queue that this process has begun to consume: whether messages still come. Between a lost connection
    /// and the next, none do.
    pub fn consuming(&self) -> Vec<liveness::Consuming> {
        self.liveness.look()
    }

    /// For each of these queues that is there: how many messages wait in it, as the broker counts them.
    pub async fn depths(&self, queues: &[QueueName]) -> Result<Vec<(QueueName, u32)>, Fault> {
        let session = self.consuming.session().await?;
        let mut depths = Vec::with_capacity(queues.len());
        for queue in queues {
            let name = self.shared.topology.names().queue(queue);
            let looking = timeout(LOOK_LIMIT, depth(session.connection(), &name)).await;
            let late = |_| Fault::timed_out(format!("RabbitMQ did not say within {LOOK_LIMIT:?} what is in {name}"));
            depths.extend(looking.map_err(late)??.map(|messages| (queue.clone(), messages)));
        }
        Ok(depths)
    }

    /// Closes the connections in good order: what was sent is read by the broker. To be called last; using the broker
    /// again connects again.
    pub async fn close(&self) {
        self.publishing.close().await;
        self.consuming.close().await;
    }

    async fn consume_at_once(&self, name: &str, prefetch: u16) -> Result<AmqpConsumer, Fault> {
        let session = self.consuming.session().await?;
        let connection = session.connection();
        let mut opened = AmqpConsumer::open(connection, short(name)?, prefetch, &self.shared.caution).await;
        if opened.as_ref().is_err_and(is_not_found) && self.shared.topology.has_queue(name) {
            self.consuming.declare_again(&session).await?;
            opened = AmqpConsumer::open(connection, short(name)?, prefetch, &self.shared.caution).await;
        }
        debug!(queue = name, prefetch, "consuming");
        opened.map_err(|error| self.not_consumed(name, error))
    }

    /// See [`caution`](super::caution).
    async fn consume_with_care(&self, name: &str, end: Instant) -> Result<AmqpConsumer, Fault> {
        let connection = self.shared.connect_alone().await?;
        let opened = AmqpConsumer::open(&connection, short(name)?, 1, &self.shared.caution).await;
        debug!(queue = name, "consuming with care");
        opened.map(|consumer| consumer.alone_on(connection, end)).map_err(|error| self.not_consumed(name, error))
    }

    fn not_consumed(&self, name: &str, error: lapin::Error) -> Fault {
        if is_not_found(&error) && !self.shared.topology.has_queue(name) {
            return Fault::not_found(format!("there is no queue {name}")).because(error);
        }
        let is_unreadable = self.shared.caution.is_raised_by_opening(&error);
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
        let session = self.publishing.session().await?;
        match self.confirmed(&session.tasks, outgoing, &route.routing_key).await? {
            Outcome::Taken => Ok(()),
            Outcome::Refused => {
                let exchange = &route.exchange;
                let message = format!("the queue {queue} is full, or its nodes are away: RabbitMQ refused a message");
                Err(Fault::queue_full(format!("{message} by way of {exchange}")).retry_in(FULL_QUEUE_WAIT))
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
        let (size, limit) = (body.len(), self.shared.settings.max_message_bytes);
        if size > limit {
            return Err(Fault::too_large(format!("the message has {size} bytes; the limit is {limit}")));
        }
        Ok(Outgoing { exchange, routing_key, mandatory, body, properties })
    }

    /// Publishes and waits for the confirm, within its time.
    async fn confirmed(&self, publisher: &Publisher, outgoing: Outgoing, to: &str) -> Result<Outcome, Fault> {
        let limit = self.shared.settings.confirm_timeout;
        match timeout(limit, publisher.publish(outgoing)).await {
            Ok(Some(Ok(outcome))) => Ok(outcome),
            Ok(Some(Err(error))) => Err(port_error(&format!("a message for {to} was not confirmed"), error)),
            Ok(None) => Err(Fault::unavailable(format!("a message for {to} was not sent: its channel is closed"))),
            Err(_) => Err(Fault::timed_out(format!(
                "RabbitMQ did not confirm a message for {to} within {limit:?}; it may be short of memory or disk"
            ))),
        }
    }

    /// What a returned message means; a queue of ours that is gone is declared again for the next attempt.
    async fn unroutable(&self, session: &Publishing, route: &Route) -> Fault {
        let message = format!("no queue {} is bound to the exchange {}", route.routing_key, route.exchange);
        if !self.shared.topology.has_queue(&route.routing_key) {
            return Fault::not_found(message);
        }
        match self.publishing.declare_again(session).await {
            Ok(()) => Fault::unavailable(format!("{message}; it was declared anew")),
            Err(error) => error,
        }
    }

    async fn reply(&self, publisher: &Publisher, body: Bytes, reply: ReplyTo) -> Result<(), Fault> {
        let ReplyTo { queue, correlation_id } = reply;
        if self.shared.topology.has_queue(&queue) {
            warn!(queue, "a client wants replies in a queue of the installation; it gets none");
            return Ok(());
        }
        let Ok(routing_key) = ShortString::try_new(queue.as_str()) else {
            warn!("a client wants replies in a queue whose name is longer than 255 bytes; it gets none");
            return Ok(());
        };
        let mut properties = headers::event_properties();
        if let Some(id) = correlation_id.and_then(|id| ShortString::try_new(id).ok()) {
            properties = properties.with_correlation_id(id);
        }
        let outgoing = self.outgoing(ShortString::default(), routing_key, false, body, properties)?;
        if self.confirmed(publisher, outgoing, &queue).await? == Outcome::Refused {
            warn!(queue, "a client's queue is full or away; it gets no reply");
        }
        Ok(())
    }

    /// Publishes where no queue is needed; see [`refusals`](super::refusals).
    async fn told(&self, publisher: &Publisher, outgoing: Outgoing, to: &str) -> Result<(), Fault> {
        for times in 1.. {
            if self.confirmed(publisher, outgoing.clone(), to).await? != Outcome::Refused {
                break;
            }
            let Some(wait) = self.shared.refusals.wait(times, to) else { break };
            sleep(wait).await;
        }
        Ok(())
    }
}

#[async_trait]
impl Broker for AmqpBroker {
    async fn publish(&self, queue: &QueueName, message: Message) -> Result<(), Fault> {
        self.send(queue, self.shared.topology.names().route(queue), message).await
    }

    async fn publish_after(&self, queue: &QueueName, message: Message, delay: Duration) -> Result<(), Fault> {
        self.send(queue, self.shared.topology.names().delayed_route(queue, delay)?, message).await
    }

    async fn dead_letter(&self, queue: &QueueName, mut message: Message, reason: &str) -> Result<(), Fault> {
        message.headers.insert(DEAD_LETTER_REASON.to_owned(), reason.to_owned());
        let dead = queue.dead_letters();
        self.send(&dead, self.shared.topology.names().route(&dead), message).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, Fault> {
        self.liveness.wanted(queue);
        let name = self.shared.topology.names().queue(queue);
        let consumer = match self.shared.caution.until() {
            Some(end) => self.consume_with_care(&name, end).await,
            None => self.consume_at_once(&name, prefetch).await,
        }?;
        self.liveness.add(queue, consumer.pulse());
        Ok(Box::new(consumer))
    }

    async fn publish_event(&self, event: Event) -> Result<(), Fault> {
        let Event { topic, body, reply } = event;
        let exchange = self.shared.topology.names().events();
        let routing_key = short(&topic)?;
        let properties = headers::event_properties();
        let outgoing = self.outgoing(short(&exchange)?, routing_key, false, body.clone(), properties)?;
        let session = self.publishing.session().await?;
        self.told(&session.events, outgoing, &exchange).await?;
        match reply {
            Some(reply) => self.reply(&session.events, body, reply).await,
            None => Ok(()),
        }
    }

    async fn subscribe(&self, prefix: &str) -> Result<Box<dyn EventStream>, Fault> {
        let session = self.consuming.session().await?;
        let exchange = self.shared.topology.names().events();
        Ok(Box::new(AmqpEvents::open(session.connection(), &exchange, prefix).await?))
    }
}
