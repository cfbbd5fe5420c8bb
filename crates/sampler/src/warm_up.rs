//! One small picture before the first job: the networks, and the device under them, work or the process says so at once.

use std::time::Duration;

use echogen_models::encoded_subject::EncodedSubject;
use echogen_protocol::Job;
use tokio::{sync::mpsc, time::Instant};

use crate::{GeneratorSampler, ImageSampler, SampleError, SampleRequest};

/// The time it may take; loading what is read from a slow disk is part of it.
const TIME: Duration = Duration::from_secs(600);

/// No job has such a key.
const SUBJECT_KEY: &str = "warm-up";

impl GeneratorSampler {
    /// Samples one picture of no subject, of the smallest size that the bundle offers, the way of every job.
    pub async fn warm_up(&self) -> Result<(), SampleError> {
        let Some((budget, resolution)) = self.subjects.resolutions.first_key_value() else {
            return Err(SampleError::Unsupported("the bundle offers no pixel budget".to_owned()));
        };
        let config = self.generator.sampler().model().config();
        let subject = EncodedSubject::blank(config, *resolution as usize).and_then(|subject| subject.to_bytes());
        let subject = subject.map_err(|error| SampleError::BadSubject(error.into()))?;
        let job = Job { pixel_budget: Some(*budget), ..Job::new(SUBJECT_KEY.into(), "a warm-up") };
        let (progress, _scales) = mpsc::unbounded_channel();
        let request = SampleRequest {
            parameters: self.plan(&job)?,
            seeds: vec![0],
            subject_key: SUBJECT_KEY.to_owned(),
            subject: subject.into(),
            alone: true,
            progress,
            deadline: Instant::now() + TIME,
        };
        self.sample(request).await.map(drop)
    }
}
