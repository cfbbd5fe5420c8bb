//! The source of the stages' networks: a model bundle or, in tests, constants.

mod bundle;
mod loaded;

use std::sync::Arc;

use async_trait::async_trait;
use echogen_encoder::SubjectEncoder;
use echogen_protocol::SubjectKeys;
use echogen_sampler::{ImageSampler, SamplerConfig};
use echogen_segmenter::Detector;

pub use bundle::{BundleNetworks, plan_request};
pub use loaded::LoadedNetworks;

use crate::Failure;

/// Provides the networks of each stage. Each group is loaded only when it is asked for, so a role loads no other
/// role's networks.
///
/// Every method may take minutes, works on other threads, and may be dropped before it completes.
#[async_trait]
pub trait NetworkSource: Send + Sync {
    /// Returns the source's name, for metrics.
    fn name(&self) -> &str;

    /// Returns what the keys of segmentations and encoded subjects depend on. Loads nothing.
    async fn subjects(&self) -> Result<SubjectKeys, Failure>;

    /// Loads the networks that locate a subject.
    async fn detector(&self) -> Result<Arc<dyn Detector>, Failure>;

    /// Loads the networks that encode a subject.
    async fn encoder(&self) -> Result<Arc<dyn SubjectEncoder>, Failure>;

    /// Loads the networks that sample pictures. After loading, they sample one picture, so that a broken device is
    /// detected before the first job.
    async fn sampler(&self, config: &SamplerConfig) -> Result<Arc<dyn ImageSampler>, Failure>;
}

/// The source of roles that load no networks.
#[derive(Clone, Copy, Debug)]
pub struct NoNetworks;

impl NoNetworks {
    fn missing<T>() -> Result<T, Failure> {
        Err(Failure::usage("this process has no model bundle"))
    }
}

#[async_trait]
impl NetworkSource for NoNetworks {
    fn name(&self) -> &str {
        "none"
    }

    async fn subjects(&self) -> Result<SubjectKeys, Failure> {
        Self::missing()
    }

    async fn detector(&self) -> Result<Arc<dyn Detector>, Failure> {
        Self::missing()
    }

    async fn encoder(&self) -> Result<Arc<dyn SubjectEncoder>, Failure> {
        Self::missing()
    }

    async fn sampler(&self, _config: &SamplerConfig) -> Result<Arc<dyn ImageSampler>, Failure> {
        Self::missing()
    }
}
