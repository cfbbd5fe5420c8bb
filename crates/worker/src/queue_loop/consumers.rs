//! The consumers of a worker's queues: what is received, in the order in which it begins.
//!
//! Each consumer runs in a task of its own, which hands over what it receives and keeps the consumer until the last of its
//! deliveries is settled. How many consumers a queue has, and with which prefetch, follows from [`credit`](super::credit); whose
//! task begins next, from [`Turns`].

use std::{collections::VecDeque, sync::Arc};

use echogen_ports::{Broker, Consumer, Delivery, Fault, QueueName};
use echogen_protocol::{Lane, TaskHeaders};
use tokio::{
    select,
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinSet,
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::{
    credit::{ConsumerId, Credit, Move},
    deficit_round_robin::Head,
    lanes::{LaneQueues, Turns},
    tasks_at_work::is_suspect,
};

/// A received task, and the queue that it came from.
pub(crate) struct Received {
    pub(crate) queue: usize,
    pub(crate) delivery: Delivery,
    pub(crate) in_hand: InHand,
    /// Whether it came from a queue of the interactive lane.
    pub(crate) is_interactive: bool,
}

/// Of which lanes a task may be received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// Of all.
    All,
    /// Of the interactive one.
    Interactive,
}

/// A delivery that is not settled. To be dropped once it is: its consumer is kept until then, and its credit counted.
pub(crate) struct InHand {
    consumer: ConsumerId,
    events: UnboundedSender<Event>,
    _token: TaskTrackerToken,
}

impl Drop for InHand {
    fn drop(&mut self) {
        // Nobody counts any more once the consumers are gone.
        drop(self.events.send(Event::Settled(self.consumer)));
    }
}

/// What happens to the consumers.
enum Event {
    Received(ConsumerId, Delivery, InHand),
    Settled(ConsumerId),
    /// A consumer hands out nothing more: it was cancelled or stopped, or it has ended.
    Over(ConsumerId, Over),
}

enum Over {
    Drained,
    Stopped,
    Ended(Result<(), Fault>),
}

/// What a consumer is told.
enum Order {
    Cancel,
    Stop,
}

/// The consumers of a worker's queues.
pub(crate) struct Consumers {
    broker: Arc<dyn Broker>,
    queues: Vec<QueueName>,
    turns: Turns,
    credit: Credit,
    /// Of each queue, what has come and waits for its turn.
    at_hand: Vec<VecDeque<(ConsumerId, Delivery, InHand)>>,
    /// Of each consumer that hands out, its queue and how it is told something.
    open: Vec<(ConsumerId, usize, UnboundedSender<Order>)>,
    /// A set and no tracker: its tasks end with it, also when the worker's future is dropped.
    tasks: JoinSet<()>,
    events: UnboundedReceiver<Event>,
    sender: UnboundedSender<Event>,
    /// Why a consumer has ended, if one has; reported once all that is at hand is handed out.
    end: Option<Result<(), Fault>>,
}

impl Consumers {
    /// Starts to consume every queue, for so many tasks at work.
    pub(crate) async fn start(broker: &Arc<dyn Broker>, lanes: &[LaneQueues], concurrency: u16) -> Result<Self, Fault> {
        let queues: Vec<QueueName> = lanes.iter().flat_map(|lane| &lane.queues).cloned().collect();
        let lane_of = lanes.iter().enumerate().flat_map(|(lane, of)| of.queues.iter().map(move |_| lane)).collect();
        let (sender, events) = mpsc::unbounded_channel();
        let mut consumers = Self {
            broker: Arc::clone(broker),
            turns: Turns::new(lanes),
            credit: Credit::new(lane_of, lanes.iter().map(|lane| lane.weight).collect(), concurrency),
            at_hand: queues.iter().map(|_| VecDeque::new()).collect(),
            open: Vec::with_capacity(queues.len()),
            tasks: JoinSet::new(),
            events,
            sender,
            end: None,
            queues,
        };
        for queue in 0..consumers.queues.len() {
            let consumer = broker.consume(&consumers.queues[queue], 1).await?;
            let feed = consumers.feed(queue, queue);
            consumers.tasks.spawn(feed.run(consumer));
        }
        Ok(consumers)
    }

    /// Waits for the next task; `None` when a consumer has ended. Cancel safe.
    pub(crate) async fn next(&mut self, lanes: Lanes) -> Result<Option<Received>, Fault> {
        loop {
            while let Ok(event) = self.events.try_recv() {
                self.note(event);
            }
            self.balance();
            if let Some(received) = self.choose(lanes) {
                // Also now: what was just begun may be all that there was at hand.
                if !is_suspect(&received.delivery) {
                    self.balance();
                }
                return Ok(Some(received));
            }
            if let Some(end) = self.end.take() {
                return end.map(|()| None);
            }
            // This value holds a sender too, so there always is a next event.
            if let Some(event) = self.events.recv().await {
                self.note(event);
            }
        }
    }

    /// Takes nothing more, and requeues what waits for its turn. What is at work can still be settled.
    pub(crate) async fn stop(&mut self) {
        for (_, _, orders) in &self.open {
            // One that is over has nothing to stop.
            drop(orders.send(Order::Stop));
        }
        // In this order: what is at hand goes back once no consumer of ours can receive it again.
        while !self.open.is_empty()
            && let Some(event) = self.events.recv().await
        {
            self.note(event);
        }
        self.at_hand.iter_mut().for_each(VecDeque::clear);
    }

    /// Waits until all that was handed out is settled; to be called after [`stop`](Self::stop).
    pub(crate) async fn settled(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Received(consumer, delivery, in_hand) => {
                self.credit.received(consumer);
                let queue = self.open.iter().find(|(id, ..)| *id == consumer).map(|(_, queue, _)| *queue);
                // Each consumer hands out before it is over.
                if let Some(queue) = queue {
                    self.at_hand[queue].push_back((consumer, delivery, in_hand));
                }
            }
            Event::Settled(consumer) => self.credit.settled(consumer),
            Event::Over(consumer, over) => {
                self.open.retain(|(id, ..)| *id != consumer);
                match over {
                    Over::Drained => self.credit.drained(consumer),
                    Over::Stopped => {}
                    Over::Ended(end) => self.end = Some(end),
                }
            }
        }
    }

    /// Opens and cancels consumers.
    fn balance(&mut self) {
        // A task that came back may kill this worker: as few others as can be are to come back with it. What is over needs no more
        // credit either: the consumers begin anew.
        if self.end.is_some() || self.at_hand.iter().flatten().any(|(_, delivery, _)| is_suspect(delivery)) {
            return;
        }
        while let Some(next) = self.credit.next_move() {
            match next {
                Move::Lend { consumer, queue, prefetch } => {
                    while self.tasks.try_join_next().is_some() {}
                    let (feed, broker, name) =
                        (self.feed(consumer, queue), Arc::clone(&self.broker), self.queues[queue].clone());
                    self.tasks.spawn(feed.open(broker, name, prefetch));
                }
                Move::TakeBack { consumer } => {
                    if let Some((_, _, orders)) = self.open.iter().find(|(id, ..)| *id == consumer) {
                        // One that has ended says so itself.
                        drop(orders.send(Order::Cancel));
                    }
                }
            }
        }
    }

    fn choose(&mut self, lanes: Lanes) -> Option<Received> {
        let in_hand = self.credit.in_hand();
        let heads = self.at_hand.iter().zip(in_hand).zip(&self.queues);
        let heads = heads.map(|((at_hand, in_hand), queue)| match at_hand.front() {
            _ if lanes == Lanes::Interactive && !is_interactive(queue) => Head::Absent,
            Some((_, delivery, _)) => Head::Ready(TaskHeaders::work_in(&delivery.message.headers)),
            None if in_hand > 0 => Head::Expected,
            None => Head::Absent,
        });
        let queue = self.turns.next(&heads.collect::<Vec<_>>())?;
        let (consumer, delivery, in_hand) = self.at_hand[queue].pop_front()?;
        self.credit.begun(consumer);
        Some(Received { queue, delivery, in_hand, is_interactive: is_interactive(&self.queues[queue]) })
    }

    fn feed(&mut self, id: ConsumerId, queue: usize) -> Feed {
        let (sender, orders) = mpsc::unbounded_channel();
        self.open.push((id, queue, sender));
        Feed { id, orders, events: self.sender.clone(), unsettled: TaskTracker::new() }
    }
}

fn is_interactive(queue: &QueueName) -> bool {
    queue.place().is_some_and(|(_, lane, _)| lane == Lane::Interactive)
}

/// The task of one consumer.
struct Feed {
    id: ConsumerId,
    orders: UnboundedReceiver<Order>,
    events: UnboundedSender<Event>,
    unsettled: TaskTracker,
}

impl Feed {
    async fn open(mut self, broker: Arc<dyn Broker>, queue: QueueName, prefetch: u16) {
        let opened = select! {
            // Stopped before it has begun.
            Some(Order::Stop) = self.orders.recv() => return self.say(Event::Over(self.id, Over::Stopped)),
            opened = broker.consume(&queue, prefetch) => opened,
        };
        match opened {
            Ok(consumer) => self.run(consumer).await,
            Err(fault) => self.say(Event::Over(self.id, Over::Ended(Err(fault)))),
        }
    }

    async fn run(mut self, mut consumer: Box<dyn Consumer>) {
        let over = self.hand_out(&mut *consumer).await;
        self.say(Event::Over(self.id, over));
        self.unsettled.close();
        self.unsettled.wait().await;
    }

    async fn hand_out(&mut self, consumer: &mut dyn Consumer) -> Over {
        let mut is_cancelled = false;
        loop {
            let received = select! {
                // In this order: what is to end receives nothing more.
                biased;
                order = self.orders.recv() => match order {
                    Some(Order::Cancel) => {
                        consumer.cancel().await;
                        is_cancelled = true;
                        continue;
                    }
                    Some(Order::Stop) | None => {
                        consumer.stop().await;
                        return Over::Stopped;
                    }
                },
                // The next delivery, or the end of the consumer.
                received = consumer.receive() => received,
            };
            match received {
                Ok(Some(delivery)) => {
                    let in_hand =
                        InHand { consumer: self.id, events: self.events.clone(), _token: self.unsettled.token() };
                    self.say(Event::Received(self.id, delivery, in_hand));
                }
                Ok(None) if is_cancelled => return Over::Drained,
                ended => return Over::Ended(ended.map(drop)),
            }
        }
    }

    fn say(&self, event: Event) {
        // A receiver that is gone has dropped everything already.
        drop(self.events.send(event));
    }
}
