//! The loop of the inference thread: receives requests and runs one batch after the other.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError},
    },
    time::Instant,
};

use echogen_imaging::RgbImage;
use echogen_models::echogen::Schedule;
use echogen_telemetry::metrics;
use echogen_worker::{Request, catch_panic};
use tracing::{Span, debug, info, warn};

use super::{
    BatchNetworks, Part,
    pending::{BatchRequest, Pending},
};
use crate::{
    BatchCounters, SampleError, Sampled, Step,
    batch_counters::ScaleClock,
    batch_scheduler::{Batch, BatchScheduler, Limits, Next, Waiting},
};

type Incoming = Request<BatchRequest, Sampled, SampleError>;

/// A batch, and its requests by their tickets.
type Taken = (Batch<Schedule>, Vec<(u64, Pending)>);

/// The thread's state: its networks and the requests it has received.
pub(super) struct Batches<N> {
    thread: String,
    networks: N,
    scheduler: BatchScheduler<Schedule>,
    /// Requests with pictures that are not started yet, by their tickets.
    pending: HashMap<u64, Pending>,
    last_ticket: u64,
    /// Whether the channel is closed, so that no more requests will arrive.
    closed: bool,
    counters: Arc<BatchCounters>,
}

/// A request in a batch.
struct Member<T> {
    ticket: u64,
    pending: Pending,
    /// Indices of the seeds that this batch samples.
    share: Vec<usize>,
    subject: T,
}

impl<N: BatchNetworks> Batches<N> {
    pub(super) fn new(thread: &str, limits: Limits, networks: N, counters: Arc<BatchCounters>) -> Self {
        Self {
            thread: thread.to_owned(),
            networks,
            scheduler: BatchScheduler::new(limits),
            pending: HashMap::new(),
            last_ticket: 0,
            closed: false,
            counters,
        }
    }

    /// Runs batches until the channel is closed and no request waits.
    pub(super) fn run(mut self, requests: &Receiver<Incoming>) {
        while let Some((batch, jobs)) = self.next_batch(requests) {
            self.run_batch(&batch, jobs);
        }
    }

    /// Waits for the next batch and removes its requests from the waiting ones; `None` when no more will come.
    fn next_batch(&mut self, requests: &Receiver<Incoming>) -> Option<Taken> {
        loop {
            // Before each decision, receive all requests that arrived while the networks were busy, and drop those
            // whose callers no longer wait.
            self.receive_arrived(requests);
            self.drop_abandoned();
            let now = Instant::now();
            match self.scheduler.next(now) {
                Next::Run(batch) => {
                    let tickets = batch.parts.iter().map(|(ticket, _)| *ticket);
                    let jobs = tickets.filter_map(|ticket| Some((ticket, self.pending.remove(&ticket)?))).collect();
                    return Some((batch, jobs));
                }
                Next::WaitUntil(moment) => match requests.recv_timeout(moment.saturating_duration_since(now)) {
                    Ok(request) => self.push(request),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => self.close(),
                },
                Next::Nothing if self.closed => return None,
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
        let alone = asked.request.alone;
        self.wait(self.last_ticket, Pending::new(asked, handle), alone);
    }

    fn wait(&mut self, ticket: u64, pending: Pending, alone: bool) {
        let images = pending.missing.len();
        let BatchRequest { kv_bytes, max_images, arrived, .. } = pending.asked;
        let waiting = Waiting { ticket, images, kv_bytes, max_images, arrived, alone };
        self.scheduler.push(pending.asked.schedule.clone(), waiting);
        self.pending.insert(ticket, pending);
    }

    /// Drops the requests whose callers no longer wait.
    fn drop_abandoned(&mut self) {
        let gone = self.pending.extract_if(|_, pending| pending.is_abandoned());
        for (ticket, _) in gone {
            debug!("request skipped, its caller no longer waits");
            self.scheduler.remove(ticket);
        }
    }

    fn run_batch(&mut self, batch: &Batch<Schedule>, jobs: Vec<(u64, Pending)>) {
        let images = batch.parts.iter().map(|(_, images)| images).sum();
        self.counters.note(batch.reason, images);
        metrics().batch_began(images, batch.reason.as_str(), kv_bytes(batch, &jobs));
        let (height, width) = batch.shape.pixels();
        info!(jobs = jobs.len(), images, reason = batch.reason.as_str(), width, height, "batch closed");
        let span = if let [(_, only)] = &jobs[..] { only.watcher.handle.span().clone() } else { Span::none() };
        let _entered = span.enter();
        let mut members = self.prepare(batch, jobs);
        match self.sample(&mut members, &batch.shape) {
            Ok(images) => self.deliver(members, images),
            Err(error) if members.len() > 1 => self.run_each_alone(members, &error),
            Err(error) => {
                if let Some(member) = members.pop() {
                    // Its pictures that are not started yet are still in the scheduler, and are not wanted any more.
                    self.scheduler.remove(member.ticket);
                    member.pending.answer(Err(error));
                }
            }
        }
        metrics().batch_ended();
    }

    /// Assigns every request its share of the batch. A request that cannot be prepared is answered with its error and
    /// leaves the batch.
    fn prepare(&mut self, batch: &Batch<Schedule>, jobs: Vec<(u64, Pending)>) -> Vec<Member<N::Subject>> {
        let counts: HashMap<u64, usize> = batch.parts.iter().copied().collect();
        let mut members = Vec::with_capacity(jobs.len());
        for (ticket, mut pending) in jobs {
            pending.begun.get_or_insert_with(Instant::now);
            let count = counts.get(&ticket).copied().unwrap_or(0).min(pending.missing.len());
            let share = pending.missing.drain(..count).collect();
            match self.networks.prepare(&pending.asked.request) {
                Ok(subject) => members.push(Member { ticket, pending, share, subject }),
                Err(error) => {
                    self.scheduler.remove(ticket);
                    pending.answer(Err(error));
                }
            }
        }
        members
    }

    /// Samples the shares of all members and reports the scales to each; stops when no caller waits any more.
    fn sample(
        &mut self,
        members: &mut [Member<N::Subject>],
        schedule: &Schedule,
    ) -> Result<Vec<RgbImage>, SampleError> {
        if members.is_empty() {
            return Ok(Vec::new());
        }
        let expected: usize = members.iter().map(|member| member.share.len()).sum();
        let (mut parts, mut watched) = (Vec::with_capacity(members.len()), Vec::with_capacity(members.len()));
        for Member { pending, share, subject, .. } in members {
            let Pending { asked: BatchRequest { request, .. }, watcher, .. } = pending;
            let seeds = share.iter().map(|index| request.seeds[*index]).collect();
            parts.push(Part { request, subject, seeds });
            watched.push((watcher, &*request, share.len()));
        }
        let mut clock = ScaleClock::default();
        let mut observe = || {
            clock.next();
            let mut wanted = false;
            for (watcher, request, images) in watched.iter_mut().filter(|(watcher, ..)| !watcher.handle.is_abandoned())
            {
                wanted = true;
                watcher.report_scale(request, *images);
            }
            if wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        // A panic leaves the networks unchanged, since they keep no state of a batch after its end.
        let images = catch_panic(&self.thread, || self.networks.sample(&parts, schedule, &mut observe))?;
        clock.end();
        if images.len() != expected {
            return Err(SampleError::Failed(format!("{} pictures were made of {expected}", images.len()).into()));
        }
        Ok(images)
    }

    /// Sends the pictures to the callers and answers the requests that are complete.
    fn deliver(&mut self, members: Vec<Member<N::Subject>>, images: Vec<RgbImage>) {
        let mut images = images.into_iter();
        for Member { ticket, mut pending, share, .. } in members {
            for (index, image) in share.into_iter().zip(&mut images) {
                pending.deliver(index, image);
            }
            if pending.is_complete() {
                pending.finish();
            } else {
                // Its other pictures are still waiting in the scheduler.
                pending.asked.request.report(Step::Waits);
                self.pending.insert(ticket, pending);
            }
        }
    }

    fn run_each_alone(&mut self, members: Vec<Member<N::Subject>>, error: &SampleError) {
        // The requests are retried, but a broken device is reported at once.
        if let Some(member) = members.first() {
            member.pending.watcher.handle.report(error);
        }
        let mut again = 0;
        for Member { ticket, mut pending, share, .. } in members {
            // Removed before `wait` adds the job again, with this batch's pictures and as one that shares no batch.
            self.scheduler.remove(ticket);
            if !pending.is_abandoned() {
                again += 1;
                pending.asked.request.report(Step::Waits);
                share.into_iter().rev().for_each(|index| pending.missing.push_front(index));
                self.wait(ticket, pending, true);
            }
        }
        if again > 0 {
            self.counters.note_failed();
            warn!(jobs = again, %error, "a batch failed, each of its jobs is run again by itself");
        }
    }
}

/// The size of the batch's key-value caches in bytes.
fn kv_bytes(batch: &Batch<Schedule>, jobs: &[(u64, Pending)]) -> u64 {
    let each = jobs.iter().filter_map(|(ticket, pending)| {
        let (_, images) = batch.parts.iter().find(|(other, _)| other == ticket)?;
        Some(pending.asked.kv_bytes.saturating_mul(*images as u64))
    });
    each.fold(0, u64::saturating_add)
}
