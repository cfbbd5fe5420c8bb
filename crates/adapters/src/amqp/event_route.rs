//! Which way events take to the queues of subscribers.
//!
//! ```text
//!  direct:  events exchange ─▶ subscribers' queues      confirmed when every queue has the event
//!  relay:   relay exchange ─▶ relay queue ─ttl 0─▶ events exchange ─▶ subscribers' queues      confirmed by the relay queue
//! ```
//!
//! RabbitMQ confirms an event when *every* queue that it is routed to has it. These queues are the clients' own. One that is
//! full makes RabbitMQ reject the event, and one that has lost its leader makes RabbitMQ say nothing at all: and when it owes
//! a channel 32 such confirms, it stops reading that channel's connection (`quorum_commands_soft_limit`).
//!
//! So events have a connection of their own, and go the direct way only while it works. If a confirm is late, or as many are
//! awaited as a stuck queue may cause, events take the relay: RabbitMQ itself routes them on from a queue of ours, and waits
//! for no subscriber. What a queue does not take at that moment is lost to it, and to it alone.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

/// How long a confirm of an event may take before its queues count as stuck. A healthy quorum queue confirms within some
/// tens of milliseconds.
pub(super) const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// Events on the direct way at once: half of what makes RabbitMQ stop reading a connection.
const MAX_DIRECT: usize = 16;

/// How long events take the relay after a confirm was late; then one tries the direct way again.
const STALLED_PAUSE: Duration = Duration::from_secs(60);

/// For how long events that a full queue rejects are worth sending again: a queue that is full for longer is not read.
const REJECTED_WINDOW: Duration = Duration::from_secs(60);

/// How long rejected events are given up at once after that.
const REJECTED_PAUSE: Duration = Duration::from_secs(60);

/// The state of the direct way.
#[derive(Debug, Default)]
pub(super) struct EventRoute(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    direct: usize,
    /// Until when events take the relay.
    stalled_until: Option<Instant>,
    /// Whether an event tries the direct way after a stall.
    is_trial: bool,
    /// When the present rejections began.
    rejecting_since: Option<Instant>,
    /// The last rejection.
    rejected_at: Option<Instant>,
}

/// The way that one event takes.
#[derive(Debug)]
pub(super) enum Way<'a> {
    /// To the events exchange. The place on the direct way is free again when this is dropped.
    Direct(Direct<'a>),
    /// To the relay exchange.
    Relay,
}

/// An event on the direct way.
#[derive(Debug)]
pub(super) struct Direct<'a>(&'a EventRoute);

impl EventRoute {
    /// The way of the next event.
    pub(super) fn choose(&self) -> Way<'_> {
        let mut state = self.lock();
        let is_stalled = state.stalled_until.is_some_and(|until| state.is_trial || Instant::now() < until);
        if is_stalled || state.direct >= MAX_DIRECT {
            return Way::Relay;
        }
        state.is_trial = state.stalled_until.is_some();
        state.direct += 1;
        Way::Direct(Direct(self))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock can be used: each change under it is complete before any code that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Direct<'_> {
    /// Every queue has the event.
    pub(super) fn confirmed(self) {
        let mut state = self.0.lock();
        (state.stalled_until, state.is_trial) = (None, false);
    }

    /// The confirm is late: the following events take the relay.
    pub(super) fn stalled(self) {
        let mut state = self.0.lock();
        if state.stalled_until.is_none() {
            warn!("a subscriber's queue confirms no events; until it does, it may miss some: restore or delete it");
        }
        (state.stalled_until, state.is_trial) = (Some(Instant::now() + STALLED_PAUSE), false);
    }

    /// A queue has rejected the event, all others have it. Returns whether it is worth sending again.
    pub(super) fn rejected(self) -> bool {
        let now = Instant::now();
        let mut state = self.0.lock();
        (state.stalled_until, state.is_trial) = (None, false);
        let is_new = state.rejected_at.is_none_or(|last| now - last > REJECTED_PAUSE);
        state.rejected_at = Some(now);
        let since = if is_new { now } else { state.rejecting_since.unwrap_or(now) };
        let age = now - since;
        if age > REJECTED_WINDOW + REJECTED_PAUSE {
            state.rejecting_since = Some(now);
            return true;
        }
        state.rejecting_since = Some(since);
        age <= REJECTED_WINDOW
    }
}

impl Drop for Direct<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.direct = state.direct.saturating_sub(1);
        // A trial without an outcome, because the connection was lost: the next event tries.
        state.is_trial = false;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn direct(route: &EventRoute) -> Option<Direct<'_>> {
        match route.choose() {
            Way::Direct(direct) => Some(direct),
            Way::Relay => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_confirm_sends_the_others_by_the_relay_until_one_gets_through() {
        let route = EventRoute::default();
        direct(&route).unwrap().confirmed();
        let (first, second) = (direct(&route).unwrap(), direct(&route).unwrap());
        first.stalled();
        assert!(direct(&route).is_none());
        advance(STALLED_PAUSE - SECOND).await;
        assert!(direct(&route).is_none());
        advance(SECOND).await;
        let trial = direct(&route).expect("the pause is over");
        assert!(direct(&route).is_none(), "one tries");
        trial.stalled();
        assert!(direct(&route).is_none());
        advance(STALLED_PAUSE).await;
        drop(direct(&route).expect("a trial whose connection is lost"));
        direct(&route).expect("is followed by another").confirmed();
        assert!(direct(&route).is_some() && direct(&route).is_some());
        second.confirmed();
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_queue_holds_fewer_confirms_than_stop_the_connection() {
        let route = EventRoute::default();
        let waiting: Vec<Direct<'_>> = std::iter::from_fn(|| direct(&route)).collect();
        assert_eq!(waiting.len(), MAX_DIRECT);
        drop(waiting);
        assert!(direct(&route).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_rejected_for_long_is_given_up_for_a_while() {
        let route = EventRoute::default();
        let mut tries = Vec::new();
        for _ in 0..130 {
            tries.push(direct(&route).unwrap().rejected());
            advance(SECOND).await;
        }
        let worth: Vec<usize> = (0..tries.len()).filter(|second| tries[*second]).collect();
        assert_eq!(worth, (0..=60).chain(121..130).collect::<Vec<_>>());
        advance(REJECTED_PAUSE * 2).await;
        assert!(direct(&route).unwrap().rejected(), "a queue that is full much later is another matter");
    }
}
