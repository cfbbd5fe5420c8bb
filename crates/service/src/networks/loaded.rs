//! Networks that are already in memory: those of a single command, or the constants of tests.

use std::sync::Arc;

use async_trait::async_trait;
use echogen_encoder::SubjectEncoder;
use echogen_protocol::SubjectKeys;
use echogen_sampler::{ImageSampler, SamplerConfig};
use echogen_segmenter::Detector;

use super::NetworkSource;
use crate::Failure;

/// Networks that need no loading.
#[derive(Clone, Debug)]
pub struct LoadedNetworks {
    /// Their name in metrics.
    pub name: String,
    /// What the keys of segmentations and encoded subjects depend on.
    pub subjects: SubjectKeys,
    /// Locates the subject.
    pub detector: Arc<dyn Detector>,
    /// Encodes a cut-out.
    pub encoder: Arc<dyn SubjectEncoder>,
    /// Samples pictures from an encoded subject and a prompt.
    pub sampler: Arc<dyn ImageSampler>,
}

#[async_trait]
impl NetworkSource for LoadedNetworks {
    fn name(&self) -> &str {
        &self.name
    }

    async fn subjects(&self) -> Result<SubjectKeys, Failure> {
        Ok(self.subjects.clone())
    }

    async fn detector(&self) -> Result<Arc<dyn Detector>, Failure> {
        Ok(Arc::clone(&self.detector))
    }

    async fn encoder(&self) -> Result<Arc<dyn SubjectEncoder>, Failure> {
        Ok(Arc::clone(&self.encoder))
    }

    async fn sampler(&self, _: &SamplerConfig) -> Result<Arc<dyn ImageSampler>, Failure> {
        Ok(Arc::clone(&self.sampler))
    }
}
