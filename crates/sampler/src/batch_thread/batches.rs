//! The loop of the inference thread: receives requests, begins batches and steps them in the order of the scheduler.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use echogen_models::echogen::Schedule;
use echogen_telemetry::metrics;
use echogen_worker::{Request, catch_panic};
use tracing::{Span, debug, info, warn};

use super::{
    BatchNetworks, Part,
    pending::{BatchRequest, Pending},
    running::{Member, Picture, Running, StepKind, tokens_left},
};
use crate::{
    BatchCounters, SampleError, Sampled, Step,
    batch_scheduler::{Batch, Limits, Waiting},
    step_scheduler::{Next, StepScheduler},
};

type Incoming = Request<BatchRequest, Sampled, SampleError>;

/// The thread's state: its networks, the requests it has received and the batches it has begun.
pub(super) struct Batches<N: BatchNetworks> {
    thread: String,
    networks: N,
    scheduler: StepScheduler<Schedule>,
    /// Requests that are not answered, by their tickets.
    requests: HashMap<u64, Pending>,
    /// Batches that have begun, by their numbers.
    running: BTreeMap<u64, Running<N>>,
    last_ticket: u64,
    last_batch: u64,
    /// Whether the channel is closed, so that no more requests will arrive.
    closed: bool,
    counters: Arc<BatchCounters>,
}

impl<N: BatchNetworks> Batches<N> {
    pub(super) fn new(thread: String, limits: Limits, networks: N, counters: Arc<BatchCounters>) -> Self {
        Self {
            thread,
            networks,
            scheduler: StepScheduler::new(limits),
            requests: HashMap::new(),
            running: BTreeMap::new(),
            last_ticket: 0,
            last_batch: 0,
            closed: false,
            counters,
        }
    }

    /// Runs until the channel is closed and no request waits.
    pub(super) fn run(mut self, requests: &Receiver<Incoming>) {
        loop {
            // Before each decision, receive all requests that arrived while the networks were busy, and drop those
            // whose callers no longer wait.
            self.receive_arrived(requests);
            self.drop_abandoned();
            metrics().batches_alive(self.scheduler.alive(), self.scheduler.kv_bytes());
            let now = Instant::now();
            match self.scheduler.next(now) {
                Next::Step(id) => self.step(id),
                Next::Begin(batch) => self.begin(&batch),
                Next::WaitUntil(moment) => match requests.recv_timeout(moment.saturating_duration_since(now)) {
                    Ok(request) => self.push(request),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => self.close(),
                },
                Next::Nothing if self.closed => return,
                Next::Nothing => match requests.recv() {
                    Ok(request) => self.push(request),
                    Err(_) => self.close(),
                },
            }
        }
    }

    fn receive_arrived(&mut self, requests: &Receiver<Incoming>) {
        loop {
            match requests.try_recv() {
                Ok(request) => self.push(request),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => return self.close(),
            }
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.scheduler.close();
    }

    fn push(&mut self, request: Incoming) {
        let (asked, handle) = request.take();
        self.last_ticket += 1;
        let (ticket, alone) = (self.last_ticket, asked.request.alone);
        self.requests.insert(ticket, Pending::new(asked, handle));
        self.wait(ticket, alone);
    }

    /// Adds a request's missing pictures to the scheduler.
    fn wait(&mut self, ticket: u64, alone: bool) {
        let Some(pending) = self.requests.get(&ticket) else { return };
        let BatchRequest { request, schedule, kv_bytes, max_images, arrived } = &pending.asked;
        let waiting = Waiting {
            ticket,
            images: pending.missing.len(),
            kv_bytes: *kv_bytes,
            max_images: *max_images,
            tokens: tokens_left(schedule, 0),
            is_interactive: request.is_interactive(),
            arrived: *arrived,
            alone,
        };
        self.scheduler.push(schedule.clone(), waiting);
    }

    /// Drops the requests whose callers no longer wait, and the pictures in batches that nobody waits for.
    fn drop_abandoned(&mut self) {
        for (ticket, _) in self.requests.extract_if(|_, pending| pending.is_abandoned()) {
            debug!("request dropped, its caller no longer waits");
            self.scheduler.remove(ticket);
        }
        let Self { requests, networks, scheduler, running, .. } = self;
        running.retain(|id, running| {
            if running.retain(networks, |ticket| requests.contains_key(&ticket)) {
                scheduler.update(*id, running.need());
            }
            if running.members.is_empty() {
                scheduler.ended(*id);
            }
            !running.members.is_empty()
        });
    }

    /// Begins a batch: computes its conditions and reserves its memory.
    fn begin(&mut self, batch: &Batch<Schedule>) {
        let images = batch.parts.iter().map(|(_, images)| images).sum();
        self.counters.note(batch.reason, images);
        metrics().batch_began(images, batch.reason.as_str());
        let (height, width) = batch.shape.pixels();
        info!(jobs = batch.parts.len(), images, reason = batch.reason.as_str(), width, height, "batch closed");
        let (members, subjects) = self.prepare(batch);
        if members.is_empty() {
            return;
        }
        let _entered = self.span(&members).entered();
        let began = Instant::now();
        let started = catch_panic(&self.thread, || {
            let parts = members.iter().zip(&subjects).filter_map(|(member, subject)| {
                let request = &self.requests.get(&member.ticket)?.asked.request;
                let seeds = member.pictures.iter().map(|index| request.seeds[*index]).collect();
                Some(Part { request, subject, seeds })
            });
            self.networks.start(&parts.collect::<Vec<_>>(), &batch.shape)
        });
        metrics().conditions_computed(began.elapsed());
        self.note_networks(&members, began.elapsed());
        match started {
            Ok(sampling) => {
                self.last_batch += 1;
                let running = Running::new(batch.shape.clone(), members, sampling);
                self.scheduler.began(self.last_batch, batch.is_interactive, running.need());
                self.running.insert(self.last_batch, running);
            }
            Err(error) => self.fail(members, error),
        }
    }

    /// Assigns every request its share of the batch. A request that cannot be prepared is answered with its error.
    fn prepare(&mut self, batch: &Batch<Schedule>) -> (Vec<Member>, Vec<N::Subject>) {
        let mut prepared = (Vec::with_capacity(batch.parts.len()), Vec::with_capacity(batch.parts.len()));
        for (ticket, images) in &batch.parts {
            let Some(pending) = self.requests.get_mut(ticket) else { continue };
            let pictures = pending.missing.drain(..(*images).min(pending.missing.len())).collect();
            match self.networks.prepare(&pending.asked.request) {
                Ok(subject) => {
                    prepared.0.push(Member { ticket: *ticket, pictures, kv_bytes: pending.asked.kv_bytes });
                    prepared.1.push(subject);
                }
                Err(error) => self.answer(*ticket, Err(error)),
            }
        }
        prepared
    }

    /// Runs the next step of a batch.
    fn step(&mut self, id: u64) {
        let Some(mut running) = self.running.remove(&id) else { return };
        self.report_waiting();
        running.is_waiting = false;
        let kind = running.next();
        for member in &running.members {
            if let Some(pending) = self.requests.get_mut(&member.ticket) {
                pending.report_turn(kind, member.pictures.len());
            }
        }
        let _entered = self.span(&running.members).entered();
        let began = Instant::now();
        // A panic leaves the networks unchanged: the state of the batch is its own, and is dropped.
        let stepped = catch_panic(&self.thread, || running.step(&mut self.networks));
        match kind {
            StepKind::Scale(index) => metrics().scale_sampled(index + 1, began.elapsed()),
            StepKind::Decode => metrics().picture_decoded(began.elapsed()),
        }
        self.note_networks(&running.members, began.elapsed());
        match stepped {
            Ok(made) => {
                self.scheduler.update(id, running.need());
                self.running.insert(id, running);
                made.into_iter().for_each(|picture| self.deliver(picture));
            }
            Err(error) => {
                self.scheduler.ended(id);
                self.fail(running.members, error);
            }
        }
    }

    /// The span of a batch with one request is the caller's.
    fn span(&self, members: &[Member]) -> Span {
        let [only] = members else { return Span::none() };
        self.requests.get(&only.ticket).map_or_else(Span::none, |pending| pending.handle.span().clone())
    }

    fn note_networks(&mut self, members: &[Member], took: Duration) {
        for member in members {
            if let Some(pending) = self.requests.get_mut(&member.ticket) {
                pending.note_networks(took);
            }
        }
    }

    /// Tells the callers of all batches but the one that is taken out for its turn that they wait.
    fn report_waiting(&mut self) {
        for running in self.running.values_mut().filter(|running| !running.is_waiting) {
            running.is_waiting = true;
            for member in &running.members {
                if let Some(pending) = self.requests.get(&member.ticket) {
                    pending.asked.request.report(Step::Waits);
                }
            }
        }
    }

    /// Sends a picture to its caller and answers the request if it is complete.
    fn deliver(&mut self, Picture { ticket, index, image }: Picture) {
        let Some(pending) = self.requests.get_mut(&ticket) else { return };
        pending.deliver(index, image);
        if pending.is_complete() {
            if let Some(pending) = self.requests.remove(&ticket) {
                pending.finish();
            }
        } else if !self.running.values().any(|running| running.members.iter().any(|member| member.ticket == ticket)) {
            // Its other pictures are still waiting in the scheduler.
            pending.asked.request.report(Step::Waits);
        }
    }

    /// Answers a request. Its pictures that are not started yet are not wanted any more, nor are those in batches.
    fn answer(&mut self, ticket: u64, answer: Result<Sampled, SampleError>) {
        self.scheduler.remove(ticket);
        if let Some(pending) = self.requests.remove(&ticket) {
            pending.answer(answer);
        }
    }

    /// A batch with these members has failed. The one request of a batch is answered; of several each is run again by
    /// itself, because the failure does not show which of them caused it.
    fn fail(&mut self, members: Vec<Member>, error: SampleError) {
        if let [only] = &members[..] {
            return self.answer(only.ticket, Err(error));
        }
        // The requests are retried, but a broken device is reported at once.
        if let Some(pending) = members.first().and_then(|member| self.requests.get(&member.ticket)) {
            pending.handle.report(&error);
        }
        let mut again = 0;
        for Member { ticket, pictures, .. } in members {
            // Removed before `wait` adds the job again, with this batch's pictures and as one that shares no batch.
            self.scheduler.remove(ticket);
            if let Some(pending) = self.requests.get_mut(&ticket).filter(|pending| !pending.is_abandoned()) {
                again += 1;
                pending.asked.request.report(Step::Waits);
                pictures.into_iter().rev().for_each(|index| pending.missing.push_front(index));
                self.wait(ticket, true);
            }
        }
        if again > 0 {
            self.counters.note_failed();
            warn!(jobs = again, %error, "a batch failed, each of its jobs is run again by itself");
        }
    }
}
