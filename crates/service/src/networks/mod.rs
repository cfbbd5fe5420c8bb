//! Where the networks behind the stages come from: a model bundle, or, in tests, constants.

mod bundle;
mod loaded;

use std::sync::Arc;

use async_trait::async_trait;
use echogen_encoder::SubjectEncoder;
use echogen_protocol::SubjectKeys;
use echogen_sampler::{ImageSampler, SamplerConfig};
use echogen_segmenter::Detector;

pub use bundle::BundleNetworks;
pub use loaded::LoadedNetworks;

use crate::Failure;

/// Gives each stage its networks, each group when it is asked for: a role loads no other role's networks.
///
/// Every method may take minutes, does its work on other threads, and may be dropped meanwhile.
#[async_trait]
pub trait NetworkSource: Send + Sync {
    /// Names the source in metrics.
    fn name(&self) -> &str;

    /// What cut-outs and encoded subjects depend on; loads nothing.
    async fn subjects(&self) -> Result<SubjectKeys, Failure>;

    /// The networks that find a subject.
    async fn detector(&self) -> Result<Arc<dyn Detector>, Failure>;

    /// The networks that encode a subject.
    async fn encoder(&self) -> Result<Arc<dyn SubjectEncoder>, Failure>;

    /// The networks that make pictures. Where they have just been loaded they have made one, so that a device that does
    /// not work is known before the first job.
    async fn sampler(&self, config: &SamplerConfig) -> Result<Arc<dyn ImageSampler>, Failure>;
}
