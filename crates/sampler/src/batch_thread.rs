//! The thread that owns the networks and samples batches of jobs.
//!
//! Askers put their jobs into a [`Gatherer`]; whenever the networks are free, the thread takes what may be sampled side
//! by side. A job that nobody waits for any more is dropped, before a batch or within it, and disturbs no other. A batch
//! that fails says nothing about its jobs: each is run again by itself, and only the one at fault fails.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use echogen_imaging::RgbImage;
use echogen_models::echogen::Schedule;
use echogen_telemetry::metrics;
use echogen_worker::InferenceError;
use tokio::{sync::oneshot, time::timeout_at};
use tracing::{Span, debug, info, warn};

use self::job::Job;
use crate::{
    BatchCounters, SampleError, SampleRequest, Sampled, SamplerConfig,
    batch_counters::ScaleClock,
    gatherer::{Batch, Gatherer, Limits, Next, Waiting},
};

mod job;

/// What samples, on a thread of its own.
pub(crate) trait Networks: Send + 'static {
    /// What a job needs on the thread besides its request.
    type Subject;

    /// Makes a job ready; what fails here is the job's own fault.
    fn prepare(&mut self, request: &SampleRequest) -> Result<Self::Subject, SampleError>;

    /// Samples one picture for each seed of each part, in their order. `observe` is told before each scale, and may stop
    /// it all.
    fn sample(
        &mut self,
        parts: &[Part<'_, Self::Subject>],
        schedule: &Schedule,
        observe: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<RgbImage>, SampleError>;
}

/// A job's share of a batch.
pub(crate) struct Part<'a, T> {
    pub(crate) request: &'a SampleRequest,
    pub(crate) subject: &'a T,
    pub(crate) seeds: Vec<u64>,
}

/// Asks the thread; it ends when this is dropped and nothing waits any more.
#[derive(Debug)]
pub(crate) struct BatchThread {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    state: Mutex<State>,
    /// Told whenever a job has come, or nothing more will.
    changed: Condvar,
    counters: BatchCounters,
}

#[derive(Debug)]
struct State {
    gatherer: Gatherer<Schedule>,
    jobs: HashMap<u64, Job>,
    last_ticket: u64,
    closed: bool,
}

/// A batch, and its jobs by their tickets.
type Taken = (Batch<Schedule>, Vec<(u64, Job)>);

impl BatchThread {
    /// Starts a thread called `name`. Fails if the system has none to give.
    pub(crate) fn start(
        name: &'static str,
        config: &SamplerConfig,
        mut networks: impl Networks,
    ) -> std::io::Result<Self> {
        let limits = Limits {
            max_images: config.max_batch.max(1),
            max_kv_bytes: config.max_kv_bytes,
            max_wait: config.max_wait(),
        };
        let state = State { gatherer: Gatherer::new(limits), jobs: HashMap::new(), last_ticket: 0, closed: false };
        let (changed, counters) = (Condvar::new(), BatchCounters::default());
        let shared = Arc::new(Shared { name, state: Mutex::new(state), changed, counters });
        let own = Arc::clone(&shared);
        let body = move || {
            while let Some((batch, jobs)) = own.next_batch() {
                own.run(batch, jobs, &mut networks);
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Self { shared })
    }

    /// Samples the pictures of one job. `kv_bytes` is what each needs, `max_images` how many of its shape may be sampled
    /// side by side. Dropping the future takes the job back.
    pub(crate) async fn ask(
        &self,
        request: SampleRequest,
        schedule: Schedule,
        kv_bytes: u64,
        max_images: usize,
    ) -> Result<Sampled, SampleError> {
        let (deadline, name) = (request.deadline, self.shared.name);
        let stopped = || InferenceError::Stopped(name.to_owned());
        let (reply, answer) = oneshot::channel();
        let job = Job::new(request, schedule, kv_bytes, max_images, reply);
        self.shared.push(job).map_err(|()| stopped())?;
        let answered = timeout_at(deadline, answer).await.map_err(|_| InferenceError::TooLate(name.to_owned()))?;
        answered.map_err(|_| stopped())?
    }

    /// What was run so far.
    pub(crate) fn counters(&self) -> &BatchCounters {
        &self.shared.counters
    }
}

impl Drop for BatchThread {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.gatherer.close();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, job: Job) -> Result<(), ()> {
        let mut state = self.lock();
        if state.closed {
            return Err(());
        }
        state.last_ticket += 1;
        let (ticket, alone) = (state.last_ticket, job.request.alone);
        state.wait(ticket, job, alone);
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits for the next batch, and takes its jobs in hand; `None` when nothing more will come.
    fn next_batch(&self) -> Option<Taken> {
        let mut state = self.lock();
        loop {
            state.forget_gone();
            let now = Instant::now();
            match state.gatherer.next(now) {
                Next::Run(batch) => {
                    let taken = batch.parts.iter().map(|(ticket, _)| *ticket);
                    let jobs = taken.filter_map(|ticket| Some((ticket, state.jobs.remove(&ticket)?))).collect();
                    return Some((batch, jobs));
                }
                Next::WaitUntil(moment) => {
                    let wait = moment.saturating_duration_since(now);
                    let waited = self.changed.wait_timeout(state, wait);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Next::Nothing if state.closed => return None,
                Next::Nothing => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn run<N: Networks>(&self, batch: Batch<Schedule>, jobs: Vec<(u64, Job)>, networks: &mut N) {
        let images = batch.parts.iter().map(|(_, images)| images).sum();
        self.counters.note(batch.reason, images);
        metrics().batch_began(images, batch.reason.as_str(), kv_bytes(&batch, &jobs));
        let (height, width) = batch.shape.pixels();
        info!(jobs = jobs.len(), images, reason = batch.reason.as_str(), width, height, "batch closed");
        let span = if let [(_, only)] = &jobs[..] { only.span.clone() } else { Span::none() };
        let _entered = span.enter();
        let mut members = self.prepare(&batch, jobs, networks);
        match sample(&mut members, &batch.shape, networks) {
            Ok(images) => self.hand_out(members, images),
            Err(error) if members.len() > 1 => self.again_each_alone(members, &error),
            Err(error) => {
                if let Some(member) = members.pop() {
                    self.lock().gatherer.remove(member.ticket);
                    member.job.answer(Err(error));
                }
            }
        }
        metrics().batch_ended();
    }

    /// Gives every job its share of the batch. One that cannot be made ready is answered and leaves it.
    fn prepare<N: Networks>(
        &self,
        batch: &Batch<Schedule>,
        jobs: Vec<(u64, Job)>,
        networks: &mut N,
    ) -> Vec<Member<N::Subject>> {
        let counts: HashMap<u64, usize> = batch.parts.iter().copied().collect();
        let mut members = Vec::with_capacity(jobs.len());
        for (ticket, mut job) in jobs {
            job.begun.get_or_insert_with(Instant::now);
            let count = counts.get(&ticket).copied().unwrap_or(0).min(job.missing.len());
            let share = job.missing.drain(..count).collect();
            match networks.prepare(&job.request) {
                Ok(subject) => members.push(Member { ticket, job, share, subject }),
                Err(error) => {
                    self.lock().gatherer.remove(ticket);
                    job.answer(Err(error));
                }
            }
        }
        members
    }

    /// Gives every job its pictures; those that have all are answered.
    fn hand_out<T>(&self, members: Vec<Member<T>>, images: Vec<RgbImage>) {
        let mut images = images.into_iter();
        for Member { ticket, mut job, share, .. } in members {
            for index in share {
                job.images[index] = images.next();
            }
            if job.images.iter().all(Option::is_some) {
                job.finish();
            } else {
                // Its other pictures still wait in the gatherer.
                self.lock().jobs.insert(ticket, job);
            }
        }
    }

    fn again_each_alone<T>(&self, members: Vec<Member<T>>, error: &SampleError) {
        let mut state = self.lock();
        let mut again = 0;
        for Member { ticket, mut job, share, .. } in members {
            state.gatherer.remove(ticket);
            if !job.is_gone() {
                again += 1;
                share.into_iter().rev().for_each(|index| job.missing.push_front(index));
                state.wait(ticket, job, true);
            }
        }
        if again > 0 {
            self.counters.note_failed();
            warn!(jobs = again, %error, "a batch failed, each of its jobs is run again by itself");
        }
    }
}

/// What the key-value caches of a batch may take.
fn kv_bytes(batch: &Batch<Schedule>, jobs: &[(u64, Job)]) -> u64 {
    let each = jobs.iter().filter_map(|(ticket, job)| {
        let (_, images) = batch.parts.iter().find(|(other, _)| other == ticket)?;
        Some(job.kv_bytes.saturating_mul(*images as u64))
    });
    each.fold(0, u64::saturating_add)
}

/// A job in a batch.
struct Member<T> {
    ticket: u64,
    job: Job,
    /// Indices of the seeds that are sampled now.
    share: Vec<usize>,
    subject: T,
}

impl State {
    fn wait(&mut self, ticket: u64, job: Job, alone: bool) {
        let images = job.missing.len();
        let Job { kv_bytes, max_images, arrived, .. } = job;
        let waiting = Waiting { ticket, images, kv_bytes, max_images, arrived, alone };
        self.gatherer.push(job.schedule.clone(), waiting);
        self.jobs.insert(ticket, job);
    }

    /// Drops the jobs that nobody waits for.
    fn forget_gone(&mut self) {
        let gone: Vec<u64> = self.jobs.iter().filter(|(_, job)| job.is_gone()).map(|(ticket, _)| *ticket).collect();
        for ticket in gone {
            debug!("request skipped, nobody waits for it");
            self.gatherer.remove(ticket);
            self.jobs.remove(&ticket);
        }
    }
}

impl<T> Member<T> {
    fn seeds(&self) -> Vec<u64> {
        self.share.iter().map(|index| self.job.request.seeds[*index]).collect()
    }
}

/// Samples the shares of all members, telling each of its scales; stops when nobody waits for any.
fn sample<N: Networks>(
    members: &mut [Member<N::Subject>],
    schedule: &Schedule,
    networks: &mut N,
) -> Result<Vec<RgbImage>, SampleError> {
    if members.is_empty() {
        return Ok(Vec::new());
    }
    let seeds: Vec<Vec<u64>> = members.iter().map(Member::seeds).collect();
    let expected: usize = seeds.iter().map(Vec::len).sum();
    let (mut parts, mut watched) = (Vec::with_capacity(members.len()), Vec::with_capacity(members.len()));
    for (Member { job, share, subject, .. }, seeds) in members.iter_mut().zip(seeds) {
        let Job { request, watch, .. } = job;
        parts.push(Part { request, subject, seeds });
        watched.push((watch, share.len()));
    }
    let mut clock = ScaleClock::default();
    let mut observe = || {
        clock.next();
        let mut wanted = false;
        for (watch, images) in watched.iter_mut().filter(|(watch, _)| !watch.is_gone()) {
            wanted = true;
            watch.tell(*images);
        }
        if wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    // The networks keep nothing of a batch past its end, so the next one finds them as they were.
    let sampled = catch_unwind(AssertUnwindSafe(|| networks.sample(&parts, schedule, &mut observe)));
    let images = sampled.unwrap_or_else(|_| Err(SampleError::Failed("the networks panicked".into())))?;
    clock.end();
    if images.len() != expected {
        return Err(SampleError::Failed(format!("{} pictures were made of {expected}", images.len()).into()));
    }
    Ok(images)
}

#[cfg(test)]
mod tests;
