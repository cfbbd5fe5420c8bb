//! Samples one small picture before the first job, so that a broken network or device is reported at start-up.

use std::time::Duration;

use echogen_models::encoded_subject::EncodedSubject;
use echogen_protocol::Job;
use tokio::{sync::mpsc, time::timeout};

use crate::{GeneratorSampler, ImageSampler, SampleError, SampleRequest};

/// The time it may take. A checkpoint on a slow disk is read during this time.
const TIME: Duration = Duration::from_secs(600);

/// A key that no job's subject has.
const SUBJECT_KEY: &str = "warm-up";

impl GeneratorSampler {
    /// Samples one picture without a subject, at the smallest size that the bundle offers, by the same code path as a
    /// job.
    pub async fn warm_up(&self) -> Result<(), SampleError> {
        let Some((budget, resolution)) = self.subjects.resolutions.first_key_value() else {
            return Err(SampleError::Unsupported("the bundle offers no pixel budget".to_owned()));
        };
        let config = self.generator.sampler().model().config();
        let subject = EncodedSubject::blank(config, *resolution as usize).and_then(|subject| subject.to_bytes());
        let subject = subject.map_err(|error| SampleError::BadSubject(error.into()))?;
        let job = Job { pixel_budget: Some(*budget), ..Job::new(SUBJECT_KEY.into(), "a warm-up") };
        let ((progress, _scales), (made, _images)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
        let request = SampleRequest {
            parameters: self.plan(&job)?,
            seeds: vec![0],
            subject_key: SUBJECT_KEY.to_owned(),
            subject: subject.into(),
            lane: job.lane,
            alone: true,
            progress,
            made,
            previews: None,
        };
        let late = |_| SampleError::Failed(format!("no picture after {TIME:?}").into());
        timeout(TIME, self.sample(request)).await.map_err(late)?.map(drop)
    }
}
