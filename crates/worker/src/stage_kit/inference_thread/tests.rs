//! Threads that add, refuse and wait as told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use echogen_testkit::eventually;
use futures::{FutureExt, future::join_all};

use super::*;

/// These threads have no device.
fn no_device(_: &(dyn Error + 'static)) -> bool {
    false
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::test]
async fn it_answers_one_after_the_other_with_its_own_state() {
    let mut asked = 0;
    let thread = InferenceThread::start("adder", 2, no_device, move |number: u32, _| {
        asked += 1;
        Ok::<_, InferenceError>(number + asked)
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
    let thread = InferenceThread::start("shy", 2, no_device, |number: u32, _| {
        assert!(number != 13, "not that number");
        Ok::<_, InferenceError>(number)
    })
    .unwrap();
    let error = thread.ask(13, later()).await.unwrap_err();
    assert_eq!(error.to_string(), "the shy thread panicked: not that number");
    assert!(!Fault::from(error).is_permanent());
    assert_eq!(thread.ask(14, later()).await, Ok(14));
}

type Gated = InferenceThread<u32, bool, InferenceError>;

/// A thread that waits for a word before each answer, and counts them.
fn gated() -> (Gated, mpsc::Sender<()>, Arc<AtomicU32>) {
    let (gate, wait) = mpsc::channel::<()>();
    let served = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&served);
    let serve = move |_: u32, handle: &RequestHandle<bool, InferenceError>| {
        wait.recv().unwrap();
        count.fetch_add(1, Ordering::SeqCst);
        Ok(handle.is_abandoned())
    };
    (InferenceThread::start("gated", 4, no_device, serve).unwrap(), gate, served)
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
    let (reply, _answer) = oneshot::channel::<Result<bool, InferenceError>>();
    let (deadline, span) = (Instant::now(), Span::none());
    let handle = RequestHandle { reply, deadline, span, is_device_fault: no_device };
    assert!(handle.is_abandoned(), "past the deadline nobody waits");
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

#[tokio::test]
async fn no_more_requests_wait_than_there_are_slots() {
    let (thread, gate, served) = gated();
    let mut asked: Vec<_> = (0..6).map(|number| Box::pin(thread.ask(number, later()))).collect();
    for (number, each) in asked.iter_mut().enumerate() {
        assert!(futures::poll!(each).is_pending());
        if number == 0 {
            // The thread takes the first, so that four more may wait.
            eventually("the first is taken", || thread.free_slots() == 4).await;
        }
    }
    assert_eq!(thread.free_slots(), 0);
    (0..6).for_each(|_| gate.send(()).unwrap());
    assert!(join_all(asked).await.into_iter().all(|answer| answer == Ok(false)));
    assert_eq!((served.load(Ordering::SeqCst), thread.free_slots()), (6, 4));
}

#[tokio::test]
async fn a_loop_takes_what_has_arrived_and_answers_it_together() {
    let (gate, wait) = mpsc::channel::<()>();
    let thread = InferenceThread::<u32, u32, InferenceError>::start_loop("sum", 4, no_device, move |requests| {
        while let Ok(first) = requests.recv() {
            wait.recv().unwrap();
            let (inputs, handles): (Vec<_>, Vec<_>) =
                std::iter::once(first).chain(requests.try_iter()).map(Request::take).unzip();
            let sum = inputs.iter().sum();
            handles.into_iter().for_each(|handle| handle.answer(Ok(sum)));
        }
    })
    .unwrap();
    let mut asked: Vec<_> = (1..4).map(|number| Box::pin(thread.ask(number, later()))).collect();
    for each in &mut asked {
        assert!(futures::poll!(each).is_pending());
    }
    gate.send(()).unwrap();
    let answers = join_all(asked).await;
    assert_eq!(answers, [Ok(6), Ok(6), Ok(6)]);
    thread.stop().await;
}

#[tokio::test]
async fn a_fault_of_the_device_is_reported() {
    let is_stopped =
        |error: &(dyn Error + 'static)| error.downcast_ref() == Some(&InferenceError::Stopped("card".into()));
    let thread = InferenceThread::start("card", 1, is_stopped, |fault: bool, _| match fault {
        true => Err::<(), _>(InferenceError::Stopped("card".to_owned())),
        false => Err(InferenceError::TooLate("card".to_owned())),
    })
    .unwrap();
    assert!(thread.ask(false, later()).await.is_err());
    assert!(echogen_telemetry::health().faulted().now_or_never().is_none());
    assert!(thread.ask(true, later()).await.is_err());
    let fault = echogen_telemetry::health().faulted().now_or_never();
    assert_eq!(fault.as_deref(), Some("the card thread has stopped"));
}
