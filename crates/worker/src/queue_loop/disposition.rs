//! A delivery at work, and what is to be done about it.

use echogen_ports::{Fault, FaultKind, Message, QueueName};
use echogen_protocol::{Failure, JobOutline, NextTask, TaskHeaders};

use crate::{Outcome, TaskMetadata};

use super::waiting_tasks::WaitingTask;

/// A delivery at work, apart from how it is settled.
pub(crate) struct ReceivedTask<'a> {
    pub(crate) queue: &'a QueueName,
    pub(crate) message: Message,
    pub(crate) redeliveries: u32,
    /// Whether it came back from a worker that may have died of it.
    pub(crate) is_suspect: bool,
    pub(crate) headers: TaskHeaders,
    pub(crate) metadata: TaskMetadata,
    /// What is kept of its job since the body was read; `None` before that, where it could not be read, and where the job
    /// has ended. The task itself goes to the stage, and nobody reads the body a second time.
    pub(crate) job: Option<JobOutline>,
    /// Its part of what the worker may have waiting, until it is run.
    pub(crate) waiting: Option<WaitingTask>,
}

/// What is to be done about a delivery.
#[derive(Debug)]
pub(crate) enum Disposition {
    /// The work is done; these tasks follow.
    Done(Vec<NextTask>),
    /// The job has ended elsewhere; there is nothing to do.
    Ended,
    /// The job fails for good.
    Fail(Failure),
    /// Another try after a while.
    Retry(Fault),
    /// Nobody can make anything of it.
    Park(String),
    /// There was no time: it is requeued as it came.
    Requeue,
}

impl Disposition {
    /// What follows from a try that the stage ended itself. What is refused for rights or configuration is no fault of the
    /// job's: its task is kept for the person who mends them, and can be sent again then.
    pub(crate) fn of(ended: Result<Outcome, Fault>) -> Self {
        match ended {
            Ok(Outcome::Next(tasks)) => Self::Done(tasks),
            Ok(Outcome::Done) => Self::Done(Vec::new()),
            Err(fault) if fault.kind() == FaultKind::Refused => Self::Park(fault.story()),
            Err(fault) if fault.is_permanent() => {
                Self::Fail(Failure { kind: fault.kind().failure(), message: fault.to_string() })
            }
            Err(fault) => Self::Retry(fault),
        }
    }
}
