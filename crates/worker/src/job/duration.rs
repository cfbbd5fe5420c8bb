//! Records how long a job took from its first publication to its end: the signal for service level objectives.
//!
//! Each end is recorded once, by the worker whose result counts. A job that is parked has not ended; it is recorded as
//! parked, and once more when it ends after all. Jobs whose sender did not say when they were published are not recorded.

use std::time::Duration;

use echogen_protocol::{FailureKind, JobResult, JobStatus, Lane, StageName, TaskHeaders};
use echogen_telemetry::{JobOutcome, metrics};
use jiff::Timestamp;

use crate::TaskMetadata;

/// When the job of a task came in. The first task's own publication counts: a client writes no other header.
pub(crate) fn accepted(stage: StageName, headers: &TaskHeaders) -> Option<Timestamp> {
    match stage {
        StageName::Dispatcher => headers.first_seen,
        _ => headers.accepted,
    }
}

/// What the end means for the objectives.
pub(crate) fn outcome_of(result: &JobResult) -> JobOutcome {
    use FailureKind::{BadImage, InvalidJob, Unsupported};
    match (result.status, result.error.as_ref().map(|failure| failure.kind)) {
        (JobStatus::Completed, _) => JobOutcome::Completed,
        (JobStatus::Expired, _) => JobOutcome::Expired,
        (JobStatus::Cancelled, _) => JobOutcome::Cancelled,
        (JobStatus::Failed, Some(InvalidJob | BadImage | Unsupported)) => JobOutcome::Refused,
        (JobStatus::Failed, _) => JobOutcome::Failed,
    }
}

/// Records the end of a job, if it is known when the job came in.
pub(crate) fn record(lane: Lane, outcome: JobOutcome, metadata: &TaskMetadata, now: Timestamp) {
    if let Some(accepted) = metadata.accepted {
        // Another machine's clock may be ahead of ours.
        let took = Duration::try_from(now.duration_since(accepted)).unwrap_or_default();
        metrics().job_took(lane, outcome, took);
    }
}

#[cfg(test)]
mod tests {
    use echogen_protocol::{Failure, Job};

    use super::*;

    #[test]
    fn only_the_first_task_takes_its_own_publication_for_the_jobs() {
        let (first, now) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let headers = TaskHeaders { first_seen: Some(now), accepted: Some(first), ..TaskHeaders::default() };
        assert_eq!(accepted(StageName::Dispatcher, &headers), Some(now));
        assert_eq!(accepted(StageName::Sampler, &headers), Some(first));
        assert_eq!(accepted(StageName::Sampler, &TaskHeaders { accepted: None, ..headers }), None);
    }

    #[test]
    fn what_the_client_sent_is_no_fault_of_the_installation() {
        let job = Job::new("dog.png".into(), "a dog").with_id();
        let failed = |kind| {
            let failure = Failure { kind, message: String::new() };
            outcome_of(&JobResult::failed(&job.outline(), failure, "1.2.3", Timestamp::UNIX_EPOCH))
        };
        assert_eq!(failed(FailureKind::InvalidJob), JobOutcome::Refused);
        assert_eq!(failed(FailureKind::BadImage), JobOutcome::Refused);
        assert_eq!(failed(FailureKind::Unsupported), JobOutcome::Refused);
        assert_eq!(failed(FailureKind::Internal), JobOutcome::Failed);
        assert_eq!(failed(FailureKind::Expired), JobOutcome::Expired);
        assert_eq!(failed(FailureKind::Cancelled), JobOutcome::Cancelled);
    }
}
