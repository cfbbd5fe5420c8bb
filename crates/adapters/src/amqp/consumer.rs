//! Deliveries of one queue, each settled on the channel it came by.

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
    caution::{Caution, SHORT_PAUSE},
    headers,
    liveness::Pulse,
    owed::{open_channel, owed},
};

/// The time that the broker has to say that it sends nothing more.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A consumer with a channel of its own, so that its end puts back its deliveries and no others.
pub(super) struct AmqpConsumer {
    queue: ShortString,
    deliveries: lapin::Consumer,
    origin: Arc<Origin>,
    caution: Arc<Caution>,
    is_stopped: bool,
    /// Of one that is alone on its connection: the connection, and when it ends to make room for an ordinary one.
    care: Option<(Connection, Instant)>,
}

/// Where deliveries came from, and where alone they can be settled.
struct Origin {
    channel: Channel,
    pulse: Pulse,
}

impl AmqpConsumer {
    /// Starts to consume. The prefetch is agreed first: the broker sends as soon as it is asked.
    pub(super) async fn open(
        connection: &Connection,
        queue: ShortString,
        prefetch: u16,
        caution: &Arc<Caution>,
    ) -> Result<Self, lapin::Error> {
        let channel = open_channel(connection).await?;
        channel.basic_qos(prefetch.max(1), BasicQosOptions::default()).await?;
        let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
        let deliveries = channel.basic_consume(queue.clone(), tag, options, FieldTable::default()).await?;
        let pulse = Pulse::new(channel.status().clone());
        let (origin, caution) = (Arc::new(Origin { channel, pulse }), Arc::clone(caution));
        Ok(Self { queue, deliveries, origin, caution, is_stopped: false, care: None })
    }

    /// The same consumer, which keeps its connection for itself until `end`, and then ends.
    pub(super) fn alone_on(mut self, connection: Connection, end: Instant) -> Self {
        self.care = Some((connection, end));
        self
    }

    /// The next delivery; `None` when the time of care is over.
    async fn next(&mut self) -> Option<Option<lapin::Result<lapin::message::Delivery>>> {
        let delivery = owed(self.deliveries.next(), || self.origin.channel.status().connected()).map(Option::flatten);
        let Some((_, end)) = &self.care else { return Some(delivery.await) };
        timeout_at(*end, delivery).await.ok()
    }

    pub(super) fn pulse(&self) -> Pulse {
        self.origin.pulse.clone()
    }
}

#[async_trait]
impl Consumer for AmqpConsumer {
    async fn receive(&mut self) -> Result<Option<Delivery>, Fault> {
        // There is still something to settle, but nothing to come.
        while !self.is_stopped {
            let Some(next) = self.next().await else {
                // What is in hand can still be settled: this consumer ends when it is dropped.
                let message =
                    format!("{} was consumed with care for a while, and is consumed as before now", self.queue);
                return Err(Fault::unavailable(message).retry_in(Duration::ZERO));
            };
            match next {
                // What came before its channel was lost is on its way to another consumer already.
                Some(Ok(delivery)) if delivery.acker.poisoned() => {}
                Some(Ok(delivery)) => return Ok(Some(self.deliver(delivery))),
                Some(Err(error)) => {
                    self.origin.pulse.end();
                    let what = format!("the consumer of {} has lost its channel", self.queue);
                    let is_unreadable = self.caution.is_raised_by(&error);
                    // Whatever it was, a consumer can be started anew, and then it shows whether that is refused.
                    let lost = Fault::unavailable(format!("{what}: {error}")).because(error);
                    return Err(if is_unreadable { lost.retry_in(SHORT_PAUSE) } else { lost });
                }
                None => {
                    self.origin.pulse.end();
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    async fn stop(&mut self) {
        self.is_stopped = true;
        self.cancel().await;
        // What came before the broker knew is dropped, and so goes back.
        while let Some(Some(Ok(delivery))) = self.deliveries.next().now_or_never() {
            drop(self.deliver(delivery));
        }
    }
}

impl AmqpConsumer {
    /// Asks the broker to send nothing more.
    async fn cancel(&self) {
        let cancelling = self.origin.channel.basic_cancel(self.deliveries.tag(), BasicCancelOptions::default());
        match timeout(STOP_LIMIT, cancelling).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, queue = %self.queue, "the consumer had ended already"),
            Err(_) => warn!(queue = %self.queue, "RabbitMQ did not answer; it may go on sending"),
        }
    }

    fn deliver(&self, delivery: lapin::message::Delivery) -> Delivery {
        let (message, redeliveries) = headers::message(delivery.data, &delivery.properties, delivery.redelivered);
        let settle = AmqpSettle { origin: Arc::clone(&self.origin), tag: delivery.delivery_tag, settled: false };
        Delivery::new(message, redeliveries, Box::new(settle))
    }
}

impl Drop for AmqpConsumer {
    /// Closes the channel, upon which the broker puts back what is not settled.
    fn drop(&mut self) {
        self.origin.pulse.end();
        // The first poll sends the request; its answer interests nobody.
        if let Some(Err(error)) = self.origin.channel.close(200, ShortString::default()).now_or_never() {
            debug!(%error, queue = %self.queue, "the consumer's channel was closed already");
        }
    }
}

struct AmqpSettle {
    origin: Arc<Origin>,
    tag: u64,
    settled: bool,
}

impl AmqpSettle {
    fn check(&self) -> Result<(), Fault> {
        if self.origin.pulse.beats() {
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
    Fault::unavailable(format!("the delivery is not settled: {error}; its message comes again")).because(error)
}

#[async_trait]
impl Settle for AmqpSettle {
    async fn ack(mut self: Box<Self>) -> Result<(), Fault> {
        self.check()?;
        self.settled = true;
        self.origin.channel.basic_ack(self.tag, BasicAckOptions::default()).await.map_err(unsettled)
    }

    async fn requeue(mut self: Box<Self>) -> Result<(), Fault> {
        self.check()?;
        self.settled = true;
        self.nack().await.map_err(unsettled)
    }
}

impl Drop for AmqpSettle {
    fn drop(&mut self) {
        if self.settled || !self.origin.pulse.beats() {
            return;
        }
        // The first poll sends it, and if it cannot be sent the channel is gone and the message back.
        if let Some(Err(error)) = self.nack().now_or_never() {
            debug!(%error, "a dropped delivery is put back by its channel's end");
        }
    }
}
