//! A thread that owns a model.
//!
//! Networks compute for seconds without a pause; on an async thread they would starve everything else there. So each
//! model lives on an OS thread of its own, which is asked over a bounded channel. [`InferenceThread::start`] answers one
//! request after the other; with [`InferenceThread::start_loop`] the thread takes its requests itself, and may compute
//! several together.

use std::{
    any::Any,
    error::Error,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
};

use echogen_ports::{Fault, FaultKind, spawn_blocking};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, timeout_at},
};
use tracing::{Span, debug, error};

/// Says whether an error is a fault of the compute device itself, after which only a new process can help.
pub type IsDeviceFault = fn(&(dyn Error + 'static)) -> bool;

/// A thread that answers requests of type `Q` with answers of type `A` or errors of type `E`. It ends when this is
/// dropped and no request waits any more.
#[derive(Debug)]
pub struct InferenceThread<Q, A, E> {
    name: String,
    is_device_fault: IsDeviceFault,
    /// `None` once stopped. The channel itself has no bound; each request in it holds a slot.
    requests: Mutex<Option<mpsc::Sender<Request<Q, A, E>>>>,
    slots: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// One request on its way to the thread.
#[derive(Debug)]
pub struct Request<Q, A, E> {
    input: Q,
    handle: RequestHandle<A, E>,
    /// Its place in the channel, free as soon as the thread takes the request.
    slot: OwnedSemaphorePermit,
}

/// The caller of a request, as the thread sees it: whether it still waits, until when, and how it is answered.
#[derive(Debug)]
pub struct RequestHandle<A, E> {
    reply: oneshot::Sender<Result<A, E>>,
    deadline: Instant,
    span: Span,
    is_device_fault: IsDeviceFault,
}

/// Why there is no answer. Each may be otherwise on another try.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferenceError {
    /// The thread was asked to stop.
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

impl From<InferenceError> for Fault {
    fn from(error: InferenceError) -> Self {
        let kind = match &error {
            InferenceError::TooLate(_) => FaultKind::Timeout,
            // Of a panic the thread survives; another try may go better.
            InferenceError::Stopped(_) | InferenceError::Panicked { .. } => FaultKind::Unavailable,
        };
        Self::from_error(kind, error)
    }
}

impl<Q, A, E> InferenceThread<Q, A, E>
where
    Q: Send + 'static,
    A: Send + 'static,
    E: Error + From<InferenceError> + Send + 'static,
{
    /// Starts a thread called `name` that answers one request after the other. `serve` owns the model; `waiting` (at
    /// least 1) is how many requests may wait. A request whose caller no longer waits is skipped.
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn start(
        name: &str,
        waiting: usize,
        is_device_fault: IsDeviceFault,
        mut serve: impl FnMut(Q, &RequestHandle<A, E>) -> Result<A, E> + Send + 'static,
    ) -> std::io::Result<Self> {
        let thread = name.to_owned();
        Self::start_loop(name, waiting, is_device_fault, move |requests| {
            for request in requests {
                let (input, handle) = request.take();
                let _entered = handle.span.clone().entered();
                if handle.is_abandoned() {
                    debug!("request skipped, its caller no longer waits");
                    continue;
                }
                // A model keeps nothing of a request past its end, so the next one finds it as it was.
                let answer = catch_panic(&thread, || serve(input, &handle));
                handle.answer(answer);
            }
        })
    }

    /// Starts a thread called `name` that runs `body`, which takes requests until no more come. `waiting` as in
    /// [`start`](Self::start). `body` answers each by its handle, and catches panics of the model with [`catch_panic`].
    ///
    /// # Errors
    ///
    /// The system has no thread to give.
    pub fn start_loop(
        name: &str,
        waiting: usize,
        is_device_fault: IsDeviceFault,
        body: impl FnOnce(mpsc::Receiver<Request<Q, A, E>>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || body(receiver))?;
        Ok(Self {
            name: name.to_owned(),
            is_device_fault,
            requests: Mutex::new(Some(sender)),
            slots: Arc::new(Semaphore::new(waiting.clamp(1, Semaphore::MAX_PERMITS))),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Sends a request, and waits for the answer until `deadline`. Dropping the future withdraws the request: if it has
    /// not begun it is skipped, otherwise the thread can see it by [`RequestHandle::is_abandoned`].
    ///
    /// # Errors
    ///
    /// The thread's own error; or the thread has stopped, has panicked over the request, or is too late.
    pub async fn ask(&self, input: Q, deadline: Instant) -> Result<A, E> {
        let asked = async {
            let answer = self.send(input, deadline).await?;
            // A thread that drops a request without an answer has ended.
            answer.await.map_err(|_| self.stopped())?
        };
        timeout_at(deadline, asked).await.unwrap_or_else(|_| Err(InferenceError::TooLate(self.name.clone()).into()))
    }

    /// Sends the request as soon as it has a slot. The sender is dropped after it, so that the channel closes once the
    /// thread is stopped and all calls that had begun have sent.
    async fn send(&self, input: Q, deadline: Instant) -> Result<oneshot::Receiver<Result<A, E>>, InferenceError> {
        let sender = lock(&self.requests).clone().ok_or_else(|| self.stopped())?;
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| self.stopped())?;
        let (reply, answer) = oneshot::channel();
        let handle = RequestHandle { reply, deadline, span: Span::current(), is_device_fault: self.is_device_fault };
        sender.send(Request { input, handle, slot }).map_err(|_| self.stopped())?;
        Ok(answer)
    }

    /// Takes no more requests, answers those that wait, and returns when the thread has ended. Idempotent.
    pub async fn stop(&self) {
        drop(lock(&self.requests).take());
        let Some(thread) = lock(&self.thread).take() else { return };
        let joined = spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            error!(thread = %self.name, "inference thread did not end in good order");
        }
    }

    /// How many more requests may wait.
    pub fn free_slots(&self) -> usize {
        self.slots.available_permits()
    }

    fn stopped(&self) -> InferenceError {
        InferenceError::Stopped(self.name.clone())
    }
}

impl<Q, A, E> Request<Q, A, E> {
    /// Takes the request from the channel: another may wait in its place.
    pub fn take(self) -> (Q, RequestHandle<A, E>) {
        drop(self.slot);
        (self.input, self.handle)
    }
}

impl<A, E> RequestHandle<A, E> {
    /// Whether the caller no longer waits: it was dropped, or the deadline is over. A long computation checks this
    /// periodically.
    pub fn is_abandoned(&self) -> bool {
        self.reply.is_closed() || Instant::now() >= self.deadline
    }

    /// When the answer has to be there.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The span of the caller.
    pub fn span(&self) -> &Span {
        &self.span
    }
}

impl<A, E: Error + 'static> RequestHandle<A, E> {
    /// Answers the request, and reports an error that is a fault of the device.
    pub fn answer(self, answer: Result<A, E>) {
        if let Err(error) = &answer {
            self.report(error);
        }
        if self.reply.send(answer).is_err() {
            debug!("answer dropped, its caller no longer waits");
        }
    }

    /// Reports an error that is a fault of the device, of a computation whose requests get another try.
    pub fn report(&self, error: &E) {
        if (self.is_device_fault)(error) {
            echogen_telemetry::health().device_fault(&error.to_string());
        }
    }
}

/// Computes, and makes an error of a panic.
pub fn catch_panic<T, E: From<InferenceError>>(thread: &str, compute: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(compute)).unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        Err(InferenceError::Panicked { thread: thread.to_owned(), message }.into())
    })
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
mod tests;
