//! Deliveries of one queue, each settled on the channel that delivered it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use echogen_ports::{Consumer, Delivery, Fault, Settle};
use futures::{FutureExt, StreamExt};
use lapin::{
    Channel, Connection,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::{
    await_or_closed::{await_or_closed, close_now, open_channel},
    headers,
    liveness::Liveness,
    poison_isolation::{PoisonIsolation, SHORT_PAUSE},
};

/// The time that the broker has to confirm the cancellation of a consumer.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// A consumer with a channel of its own, so that its end requeues its own deliveries and no others.
pub(super) struct AmqpConsumer {
    queue: ShortString,
    deliveries: lapin::Consumer,
    origin: Arc<Origin>,
    poison_isolation: Arc<PoisonIsolation>,
    is_stopped: bool,
    is_cancelled: bool,
    /// For an isolated consumer: its connection, and the time at which the consumer ends so that an ordinary one can
    /// replace it.
    isolated: Option<(Connection, Instant)>,
}

/// Closes the channel of a consumer that was not opened to the end, upon which the broker requeues what it has delivered.
struct CloseUnfinished<'a>(Option<(&'a Channel, &'a ShortString)>);

impl CloseUnfinished<'_> {
    fn finished(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseUnfinished<'_> {
    fn drop(&mut self) {
        if let Some((channel, queue)) = self.0 {
            close_now(channel, queue);
        }
    }
}

/// The channel that delivered a message; the broker accepts its acknowledgement on no other.
struct Origin {
    channel: Channel,
    liveness: Liveness,
}

impl AmqpConsumer {
    /// Starts to consume. The prefetch is set before `basic_consume`: the broker delivers as soon as it has that request.
    pub(super) async fn open(
        connection: &Connection,
        queue: ShortString,
        prefetch: u16,
        poison_isolation: &Arc<PoisonIsolation>,
    ) -> Result<Self, lapin::Error> {
        let channel = open_channel(connection).await?;
        // A caller may give up meanwhile, and the broker deliver all the same.
        let unfinished = CloseUnfinished(Some((&channel, &queue)));
        channel.basic_qos(prefetch.max(1), BasicQosOptions::default()).await?;
        let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
        let deliveries = channel.basic_consume(queue.clone(), tag, options, FieldTable::default()).await?;
        unfinished.finished();
        let liveness = Liveness::new(channel.status().clone());
        let origin = Arc::new(Origin { channel, liveness });
        let poison_isolation = Arc::clone(poison_isolation);
        Ok(Self { queue, deliveries, origin, poison_isolation, is_stopped: false, is_cancelled: false, isolated: None })
    }

    /// Makes this an isolated consumer: it owns its connection and ends at `end`.
    pub(super) fn isolated_on(mut self, connection: Connection, end: Instant) -> Self {
        self.isolated = Some((connection, end));
        self
    }

    /// The next delivery; `None` when the isolation has ended.
    async fn next(&mut self) -> Option<Option<lapin::Result<lapin::message::Delivery>>> {
        let is_open = || self.origin.channel.status().connected();
        let delivery = await_or_closed(self.deliveries.next(), is_open).map(Option::flatten);
        let Some((_, end)) = &self.isolated else { return Some(delivery.await) };
        timeout_at(*end, delivery).await.ok()
    }

    pub(super) fn liveness(&self) -> Liveness {
        self.origin.liveness.clone()
    }
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn receive(&mut self) -> Result<Option<Delivery>, Fault> {
        // After `stop` no delivery is returned; those that were returned before can still be settled.
        while !self.is_stopped {
            if self.is_cancelled {
                return Ok(self.deliver_buffered());
            }
            let Some(next) = self.next().await else {
                // The deliveries that were returned can still be settled: the channel closes when this value is dropped.
                let message =
                    format!("the isolation of {} has ended, it is consumed on the shared connection again", self.queue);
                return Err(Fault::unavailable(message).retry_in(Duration::ZERO));
            };
            match next {
                // The channel of this delivery was lost; the broker delivers the message to another consumer.
                Some(Ok(delivery)) if delivery.acker.poisoned() => {}
                Some(Ok(delivery)) => return Ok(Some(self.deliver(delivery))),
                Some(Err(error)) => {
                    self.origin.liveness.end();
                    let what = format!("the consumer of {} has lost its channel", self.queue);
                    let is_unreadable = self.poison_isolation.start_if_unreadable(&error);
                    // Transient whatever the cause: if the broker refuses this consumer, the next `consume` reports it.
                    let lost = Fault::unavailable(format!("{what}: {error}")).because(error);
                    return Err(if is_unreadable { lost.retry_in(SHORT_PAUSE) } else { lost });
                }
                None => {
                    self.origin.liveness.end();
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    async fn cancel(&mut self) {
        // What the broker sent before it confirms the cancellation is in the buffer by then.
        self.cancel_at_broker().await;
        self.is_cancelled = true;
    }

    async fn stop(&mut self) {
        // The order must hold: the consumer is cancelled at the broker first, and only then are the buffered deliveries
        // requeued. The other way round, the broker could deliver the requeued messages to this consumer again.
        self.is_stopped = true;
        if !self.is_cancelled {
            self.cancel_at_broker().await;
        }
        // Deliveries that arrived before the cancellation are dropped, which requeues them.
        while let Some(delivery) = self.deliver_buffered() {
            drop(delivery);
        }
    }
}

impl AmqpConsumer {
    /// The next delivery that has arrived.
    fn deliver_buffered(&mut self) -> Option<Delivery> {
        match self.deliveries.next().now_or_never() {
            Some(Some(Ok(delivery))) => Some(self.deliver(delivery)),
            _ => None,
        }
    }

    /// Cancels the consumer at the broker, so that no further message is delivered to it.
    async fn cancel_at_broker(&self) {
        let cancelling = self.origin.channel.basic_cancel(self.deliveries.tag(), BasicCancelOptions::default());
        match timeout(CANCEL_TIMEOUT, cancelling).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, queue = %self.queue, "the consumer had ended already"),
            Err(_) => {
                warn!(queue = %self.queue, "RabbitMQ did not confirm the cancellation; it may deliver further messages")
            }
        }
    }

    fn deliver(&self, delivery: lapin::message::Delivery) -> Delivery {
        let (message, redeliveries) = headers::message(delivery.data, &delivery.properties, delivery.redelivered);
        let settle = AmqpSettle { origin: Arc::clone(&self.origin), tag: delivery.delivery_tag, settled: false };
        Delivery::new(message, redeliveries, Box::new(settle))
    }
}

impl Drop for AmqpConsumer {
    /// Closes the channel, upon which the broker requeues every delivery that is not settled.
    fn drop(&mut self) {
        // First: from here on `AmqpSettle` reports the delivery as returned and sends nothing on the closing channel.
        self.origin.liveness.end();
        close_now(&self.origin.channel, &self.queue);
    }
}

struct AmqpSettle {
    origin: Arc<Origin>,
    tag: u64,
    settled: bool,
}

impl AmqpSettle {
    fn check(&self) -> Result<(), Fault> {
        if self.origin.liveness.is_live() {
            return Ok(());
        }
        Err(Fault::unavailable("the consumer of this delivery has ended; the message is back in its queue"))
    }

    fn nack(&self) -> impl Future<Output = Result<(), lapin::Error>> {
        let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        self.origin.channel.basic_nack(self.tag, options)
    }
}

fn unsettled(error: lapin::Error) -> Fault {
    Fault::unavailable(format!("the delivery is not settled: {error}; its message is delivered again")).because(error)
}

#[async_trait]
impl Settle for AmqpSettle {
    async fn ack(mut self: Box<Self>) -> Result<(), Fault> {
        self.check()?;
        // Before the call: if this future is dropped, `Drop` must not send a second answer for the same delivery.
        self.settled = true;
        self.origin.channel.basic_ack(self.tag, BasicAckOptions::default()).await.map_err(unsettled)
    }

    async fn requeue(mut self: Box<Self>) -> Result<(), Fault> {
        self.check()?;
        // Before the call, as in `ack`.
        self.settled = true;
        self.nack().await.map_err(unsettled)
    }
}

impl Drop for AmqpSettle {
    fn drop(&mut self) {
        if self.settled || !self.origin.liveness.is_live() {
            return;
        }
        // The first poll sends it. If it cannot be sent, the channel has closed and the broker requeues the message.
        if let Some(Err(error)) = self.nack().now_or_never() {
            debug!(%error, "a dropped delivery is requeued by the end of its channel");
        }
    }
}
