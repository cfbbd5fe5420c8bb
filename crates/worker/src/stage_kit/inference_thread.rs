//! A thread that owns a model.
//!
//! Networks compute for seconds without a pause; on an async thread they would starve everything else there. So each
//! model lives on an OS thread of its own, is asked over a bounded channel, and answers one request after the other.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};
use tracing::{Span, debug, error};

use crate::StageError;

/// A thread that answers requests of type `Q` with answers of type `A`.
#[derive(Debug)]
pub struct InferenceThread<Q, A> {
    name: String,
    /// `None` once stopped.
    requests: Mutex<Option<mpsc::Sender<Request<Q, A>>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One request on its way to the thread.
#[derive(Debug)]
struct Request<Q, A> {
    input: Q,
    deadline: Instant,
    span: Span,
    reply: oneshot::Sender<Result<A, InferenceError>>,
}

/// Whoever waits for the answer in hand. A long computation asks now and then whether it is still wanted.
pub struct RequestHandle<'a> {
    is_gone: &'a dyn Fn() -> bool,
    deadline: Instant,
}

impl RequestHandle<'_> {
    /// Whether nobody waits any more: dropped, or past its deadline.
    pub fn is_gone(&self) -> bool {
        (self.is_gone)() || Instant::now() >= self.deadline
    }

    /// When the answer has to be there.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// Why there is no answer. Each may be otherwise on another try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// The thread has been told to stop.
    #[error("the {0} thread has stopped")]
    Stopped(String),
    /// The answer did not come in time.
    #[error("the {0} thread did not answer in time")]
    TooLate(String),
    /// The model panicked over this request; the thread lives on.
    #[error("the {thread} thread panicked: {message}")]
    Panicked {
        /// The thread's name.
        thread: String,
        /// What the panic said.
        message: String,
    },
}

impl From<InferenceError> for StageError {
    fn from(error: InferenceError) -> Self {
        Self::transient(error.to_string()).because(error)
    }
}

impl<Q: Send + 'static, A: Send + 'static> InferenceThread<Q, A> {
    /// Starts a thread called `name`. `serve` owns the model and answers each input; `waiting` (at least 1) is how
    /// many requests may wait. Fails if the system has no thread to give.
    pub fn start(
        name: &str,
        waiting: usize,
        mut serve: impl FnMut(Q, &RequestHandle<'_>) -> A + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, mut receiver) = mpsc::channel::<Request<Q, A>>(waiting.max(1));
        let thread_name = name.to_owned();
        let body = move || {
            while let Some(request) = receiver.blocking_recv() {
                answer(&thread_name, request, &mut serve);
            }
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
        Ok(Self { name: name.to_owned(), requests: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Asks, and waits for the answer until `deadline`. Dropping the future takes the request back: if it has not
    /// begun it is skipped, otherwise `serve` can see it by [`RequestHandle::is_gone`].
    pub async fn ask(&self, input: Q, deadline: Instant) -> Result<A, InferenceError> {
        let stopped = || InferenceError::Stopped(self.name.clone());
        let sender = lock(&self.requests).clone().ok_or_else(stopped)?;
        let (reply, answer) = oneshot::channel();
        let asked = async {
            let request = Request { input, deadline, span: Span::current(), reply };
            sender.send(request).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        timeout_at(deadline, asked).await.unwrap_or_else(|_| Err(InferenceError::TooLate(self.name.clone())))
    }

    /// Takes no more requests, answers those that wait, and returns when the thread has ended. Idempotent.
    pub async fn stop(&self) {
        drop(lock(&self.requests).take());
        let Some(thread) = lock(&self.thread).take() else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            error!(thread = %self.name, "inference thread did not end in good order");
        }
    }
}

fn answer<Q, A>(thread: &str, request: Request<Q, A>, serve: &mut impl FnMut(Q, &RequestHandle<'_>) -> A) {
    let Request { input, deadline, span, reply } = request;
    let _entered = span.enter();
    let is_gone = || reply.is_closed();
    let handle = RequestHandle { is_gone: &is_gone, deadline };
    if handle.is_gone() {
        debug!("request skipped, nobody waits for it");
        return;
    }
    // A model keeps nothing of a request past its end, so the next one finds it as it was.
    let answer = catch_unwind(AssertUnwindSafe(|| serve(input, &handle)))
        .map_err(|panic| InferenceError::Panicked { thread: thread.to_owned(), message: panic_message(&*panic) });
    if reply.send(answer).is_err() {
        debug!("answer dropped, nobody waits for it");
    }
}

/// What a panic said, where it said something.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
            mpsc as sync_mpsc,
        },
        time::Duration,
    };

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[tokio::test]
    async fn it_answers_one_after_the_other_with_its_own_state() {
        let mut asked = 0;
        let thread = InferenceThread::start("adder", 2, move |number: u32, _: &RequestHandle<'_>| {
            asked += 1;
            number + asked
        })
        .unwrap();
        assert_eq!(thread.ask(10, later()).await, Ok(11));
        assert_eq!(thread.ask(10, later()).await, Ok(12));
        thread.stop().await;
        assert_eq!(thread.ask(10, later()).await, Err(InferenceError::Stopped("adder".to_owned())));
        thread.stop().await;
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_and_the_thread_lives_on() {
        let thread = InferenceThread::start("shy", 2, |number: u32, _: &RequestHandle<'_>| {
            assert!(number != 13, "not that number");
            number
        })
        .unwrap();
        let error = thread.ask(13, later()).await.unwrap_err();
        assert_eq!(error.to_string(), "the shy thread panicked: not that number");
        assert!(!StageError::from(error).is_permanent());
        assert_eq!(thread.ask(14, later()).await, Ok(14));
    }

    /// A thread that waits for a word before each answer, and counts them.
    fn gated() -> (InferenceThread<u32, bool>, sync_mpsc::Sender<()>, Arc<AtomicU32>) {
        let (gate, wait) = sync_mpsc::channel::<()>();
        let served = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&served);
        let serve = move |_: u32, handle: &RequestHandle<'_>| {
            wait.recv().unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            handle.is_gone()
        };
        (InferenceThread::start("gated", 4, serve).unwrap(), gate, served)
    }

    #[tokio::test]
    async fn a_request_nobody_waits_for_is_skipped() {
        let (thread, gate, served) = gated();
        let mut first = Box::pin(thread.ask(1, later()));
        let mut second = Box::pin(thread.ask(2, later()));
        let mut third = Box::pin(thread.ask(3, later()));
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        drop(second);
        gate.send(()).unwrap();
        gate.send(()).unwrap();
        assert_eq!((first.await, third.await), (Ok(false), Ok(false)));
        assert_eq!(served.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_computation_can_see_that_nobody_waits() {
        let (thread, gate, served) = gated();
        let mut only = Box::pin(thread.ask(1, later()));
        assert!(futures::poll!(&mut only).is_pending());
        let handle = RequestHandle { is_gone: &|| false, deadline: Instant::now() };
        assert!(handle.is_gone(), "past the deadline nobody waits");
        gate.send(()).unwrap();
        assert_eq!(only.await, Ok(false));
        assert_eq!(served.load(Ordering::SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_does_not_come_in_time_is_an_error() {
        let (thread, gate, _) = gated();
        let error = thread.ask(1, Instant::now() + Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error, InferenceError::TooLate("gated".to_owned()));
        gate.send(()).unwrap();
    }

    #[tokio::test]
    async fn stopping_answers_what_waits() {
        let (thread, gate, served) = gated();
        let mut first = Box::pin(thread.ask(1, later()));
        let mut second = Box::pin(thread.ask(2, later()));
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        gate.send(()).unwrap();
        gate.send(()).unwrap();
        let (first, second, ()) = tokio::join!(first, second, thread.stop());
        assert_eq!((first, second), (Ok(false), Ok(false)));
        assert_eq!(served.load(Ordering::SeqCst), 2);
    }
}
