//! The loop of the inference thread: receives requests, begins batches and steps them in the order of the scheduler.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::{Duration, Instant},
};

use echogen_models::{device_fault::is_out_of_memory, echogen::Schedule};
use echogen_telemetry::{PreviewEnd, batch_span, metrics};
use echogen_worker::{Request, catch_panic};
use tracing::{Span, debug, info, warn};

use super::{
    BatchNetworks, Part,
    pending::{BatchRequest, Pending},
    previews::PreviewQueue,
    running::{Member, Picture, Running, StepKind, tokens_left},
};
use crate::{
    BatchCounters, PREVIEW_SIDE, Previews, SampleError, Sampled, Step,
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
    /// Previews that are to be made before the next step.
    previews: PreviewQueue<N::Codes>,
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
            previews: PreviewQueue::default(),
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
            if self.preview() {
                continue;
            }
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
        let jobs = members.iter().filter_map(|member| self.requests.get(&member.ticket));
        let span = batch_span("batch", &jobs.map(|pending| pending.handle.span().clone()).collect::<Vec<_>>());
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
        self.note_networks(members.iter().map(|member| member.ticket), began.elapsed());
        match started {
            Ok(sampling) => {
                self.last_batch += 1;
                let mut running = Running::new(batch.shape.clone(), members, sampling, span);
                running.charge(began.elapsed());
                self.scheduler.began(self.last_batch, batch.is_interactive, running.need());
                self.running.insert(self.last_batch, running);
            }
            Err(error) => self.fail(&batch.shape, members, error),
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
        let tickets: Vec<u64> = running.members.iter().map(|member| member.ticket).collect();
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
            StepKind::Scale(index) => {
                metrics().scale_sampled(index + 1, began.elapsed());
                running.charge(began.elapsed());
            }
            StepKind::Decode => metrics().picture_decoded(began.elapsed()),
        }
        self.note_networks(tickets, began.elapsed());
        match stepped {
            Ok(made) => {
                if let StepKind::Scale(index) = kind {
                    self.want_previews(id, &running, index + 1);
                }
                self.scheduler.update(id, running.need());
                self.running.insert(id, running);
                made.into_iter().for_each(|picture| self.deliver(picture));
            }
            Err(error) => {
                self.scheduler.ended(id);
                self.fail(&running.schedule().clone(), running.members, error);
            }
        }
    }

    /// The span of a batch with one request is the caller's.
    fn span(&self, members: &[Member]) -> Span {
        let [only] = members else { return Span::none() };
        self.requests.get(&only.ticket).map_or_else(Span::none, |pending| pending.handle.span().clone())
    }

    fn note_networks(&mut self, tickets: impl IntoIterator<Item = u64>, took: Duration) {
        for ticket in tickets {
            if let Some(pending) = self.requests.get_mut(&ticket) {
                pending.note_networks(took);
            }
        }
    }

    /// Whether nobody waits for the thread but the jobs of this batch, and all of them asked for previews.
    fn has_time_for_previews(&self, members: &[Member]) -> bool {
        self.requests.len() <= members.len()
            && self.requests.iter().all(|(ticket, pending)| {
                pending.asked.request.previews.is_some() && members.iter().any(|member| member.ticket == *ticket)
            })
    }

    /// Collects what the previews of a batch after so many scales are decoded from.
    fn want_previews(&mut self, batch: u64, running: &Running<N>, scale: usize) {
        let wanted = |member: &&Member| {
            self.requests.get(&member.ticket).is_some_and(|pending| pending.previews_at(scale).is_some())
        };
        let images = running.members.iter().filter(wanted).map(|member| member.pictures.len()).sum();
        if images == 0 {
            return;
        }
        let codes = if self.has_time_for_previews(&running.members) {
            catch_panic(&self.thread, || running.codes(&mut self.networks))
                .inspect_err(|error| debug!(%error, "no previews"))
                .unwrap_or_default()
        } else {
            Vec::new()
        };
        if codes.is_empty() {
            return metrics().previews(PreviewEnd::Dropped, images);
        }
        let mut codes = codes.into_iter();
        for member in &running.members {
            let left = member.pictures.iter().copied().zip(&mut codes).collect();
            let Some(pending) = self.requests.get(&member.ticket) else { continue };
            if let Some(wanted) = pending.previews_at(scale) {
                let previews = Previews { progress: pending.progress(), scale, images: Vec::new() };
                self.previews.push((batch, member.ticket), wanted, previews, left);
            }
        }
    }

    /// Makes the next preview, unless there is none or no time for one; then those that are left are dropped. Returns
    /// whether it made one.
    fn preview(&mut self) -> bool {
        let Some((batch, ticket)) = self.previews.next() else { return false };
        let has_time = self.running.get(&batch).is_some_and(|running| self.has_time_for_previews(&running.members));
        let Some(codes) = self.previews.codes().filter(|_| has_time) else {
            self.previews.clear();
            return false;
        };
        let began = Instant::now();
        let made = catch_panic(&self.thread, || self.networks.preview(codes, PREVIEW_SIDE));
        metrics().preview_decoded(began.elapsed());
        if let Some(pending) = self.requests.get_mut(&ticket) {
            pending.note_preview(began.elapsed());
        }
        self.previews.made(made.inspect_err(|error| debug!(%error, "a preview is left out")).ok());
        true
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
    fn deliver(&mut self, picture: Picture) {
        let ticket = picture.ticket;
        let Some(pending) = self.requests.get_mut(&ticket) else { return };
        pending.deliver(picture);
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

    /// A batch with these members has failed. If it was too large for the device's memory, its pictures are made in batches
    /// of half the size. Otherwise the one request of a batch is answered; of several each is run again by itself, because
    /// the failure does not show which of them caused it.
    fn fail(&mut self, shape: &Schedule, members: Vec<Member>, error: SampleError) {
        let images = members.iter().map(|member| member.pictures.len()).sum::<usize>();
        if images > 1 && is_out_of_memory(&error) {
            let fewer = images / 2;
            warn!(images, fewer, %error, "the device has no memory for a batch, it is halved from now on");
            self.scheduler.allow(shape, fewer);
            self.counters.note_failed();
            self.run_again(members, false);
            return;
        }
        if let [only] = &members[..] {
            return self.answer(only.ticket, Err(error));
        }
        // The requests are retried, but a broken device is reported at once.
        if let Some(pending) = members.first().and_then(|member| self.requests.get(&member.ticket)) {
            pending.handle.report(&error);
        }
        let again = self.run_again(members, true);
        if again > 0 {
            self.counters.note_failed();
            warn!(jobs = again, %error, "a batch failed, each of its jobs is run again by itself");
        }
    }

    /// Gives the members' pictures back to the scheduler. Returns the number of jobs whose callers still wait.
    fn run_again(&mut self, members: Vec<Member>, alone: bool) -> usize {
        let mut again = 0;
        for Member { ticket, pictures, .. } in members {
            // Removed before `wait` adds the job again, with this batch's pictures.
            self.scheduler.remove(ticket);
            if let Some(pending) = self.requests.get_mut(&ticket).filter(|pending| !pending.is_abandoned()) {
                again += 1;
                let alone = alone || pending.asked.request.alone;
                pending.asked.request.report(Step::Waits);
                pictures.into_iter().rev().for_each(|index| pending.missing.push_front(index));
                self.wait(ticket, alone);
            }
        }
        again
    }
}
