//! Loads the networks of a bundle, verifies their checksums, and starts an inference thread for each group.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use anyhow::Context;
use async_trait::async_trait;
use echogen_checkpoint::bundle::{Bundle, Network, SamplingDefaults};
use echogen_encoder::{NetworkEncoder, SubjectEncoder};
use echogen_models::{
    DType,
    device::{Compute, DeviceMemory},
    feature_extractor::FeatureExtractor,
    generator::Generator,
    plan::{MemoryPlan, PlanRequest, Work},
    subject_finder::SubjectFinder,
};
use echogen_ports::spawn_blocking;
use echogen_protocol::SubjectKeys;
use echogen_sampler::{GeneratorSampler, ImageSampler, SamplerConfig};
use echogen_segmenter::{Detector, FinderConfig, GivenBox, NetworkDetector};
use tracing::{debug, info, warn};

use super::{LoadedNetworks, NetworkSource};
use crate::{
    Failure,
    config::{ModelConfig, ServiceConfig},
};

/// The networks that encode a subject.
const ENCODERS: [Network; 2] = [Network::Dinov2, Network::FluxVae];
/// The networks that sample pictures.
const SAMPLERS: [Network; 3] = [Network::TextEncoder, Network::Transformer, Network::VisualTokenizer];

/// The networks that locate a subject; a bundle may lack them.
const FINDERS: [Network; 3] = [Network::Namer, Network::Detector, Network::SegmentAnything];

/// The networks of one bundle.
#[derive(Clone)]
pub struct BundleNetworks(Arc<Loader>);

impl BundleNetworks {
    /// Opens the bundle that the settings name. Loads nothing.
    pub fn open(config: &ServiceConfig) -> Result<Self, Failure> {
        let (model, finder) = (config.model.clone(), config.finder.clone());
        Ok(Self(Arc::new(Loader { bundle: model.open()?, model, finder })))
    }

    /// Loads all networks at once, for a single command. There is no warm-up: the command's first job shows whether
    /// they work.
    pub async fn load(&self, config: &SamplerConfig) -> Result<LoadedNetworks, Failure> {
        let config = config.clone();
        self.loading(move |loader| {
            Ok(LoadedNetworks {
                name: loader.bundle.name().to_owned(),
                detector: loader.detector()?,
                encoder: loader.encoder()?,
                sampler: loader.sampler(&config)?,
                subjects: loader.subjects()?,
            })
        })
        .await
    }

    /// Runs `work` with the loader on a thread of its own.
    async fn loading<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Loader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let loader = Arc::clone(&self.0);
        let done = spawn_blocking(move || work(&loader)).await;
        done.map_err(|error| Failure::refused("the networks were not loaded", &error))?
    }
}

#[async_trait]
impl NetworkSource for BundleNetworks {
    fn name(&self) -> &str {
        self.0.bundle.name()
    }

    async fn subjects(&self) -> Result<SubjectKeys, Failure> {
        self.loading(Loader::subjects).await
    }

    async fn detector(&self) -> Result<Arc<dyn Detector>, Failure> {
        self.loading(Loader::detector).await
    }

    async fn encoder(&self) -> Result<Arc<dyn SubjectEncoder>, Failure> {
        self.loading(Loader::encoder).await
    }

    async fn sampler(&self, config: &SamplerConfig) -> Result<Arc<dyn ImageSampler>, Failure> {
        let config = config.clone();
        let sampler = self.loading(move |loader| loader.sampler(&config)).await?;
        warm_up(&sampler).await?;
        Ok(sampler)
    }
}

/// Samples one picture.
async fn warm_up(sampler: &GeneratorSampler) -> Result<(), Failure> {
    let began = Instant::now();
    let made = sampler.warm_up().await;
    made.map_err(|error| Failure::usage(format!("the networks make no picture: {error}")))?;
    info!(seconds = began.elapsed().as_secs_f64(), "warmed up");
    Ok(())
}

/// Loads the networks of one bundle; its methods block.
struct Loader {
    bundle: Bundle,
    model: ModelConfig,
    finder: FinderConfig,
}

impl Loader {
    /// Loads networks onto a device that is opened for them alone, because they get a thread of their own, and waits until their
    /// weights are there. A dispatcher loads none, and leaves the GPU to other processes.
    fn on_device<T>(&self, load: impl FnOnce(&Compute) -> Result<T, Failure>) -> Result<T, Failure> {
        let compute = self.model.compute()?;
        let loaded = load(&compute)?;
        self.loaded(compute.synchronize())?;
        Ok(loaded)
    }

    fn subjects(&self) -> Result<SubjectKeys, Failure> {
        let digests = self.digests()?;
        let models = pick(digests, &FINDERS);
        let finders = match models.is_empty() {
            true => GivenBox.version(),
            false => NetworkDetector::version_of(&self.finder, &models),
        };
        let dtypes = self.model.dtype.possible().into_iter().map(str::to_owned).collect();
        Ok(SubjectKeys { finders, dtypes, ..subject_keys(&self.bundle.manifest().sampling, digests) })
    }

    /// Creates the detector from those networks for it that the bundle has.
    fn detector(&self) -> Result<Arc<dyn Detector>, Failure> {
        let models = pick(self.digests()?, &FINDERS);
        if models.is_empty() {
            return Ok(Arc::new(GivenBox));
        }
        let finder =
            self.on_device(|compute| self.loaded(SubjectFinder::load(&self.bundle, &compute.device, compute.dtype)))?;
        let started = NetworkDetector::start(finder, self.finder.clone(), models).map_err(anyhow::Error::from)?;
        Ok(Arc::new(started))
    }

    fn encoder(&self) -> Result<Arc<dyn SubjectEncoder>, Failure> {
        let networks = self
            .on_device(|compute| self.loaded(FeatureExtractor::load(&self.bundle, &compute.device, compute.dtype)))?;
        let started = NetworkEncoder::start(networks, pick(self.digests()?, &ENCODERS)).map_err(anyhow::Error::from)?;
        Ok(Arc::new(started))
    }

    fn sampler(&self, config: &SamplerConfig) -> Result<Arc<GeneratorSampler>, Failure> {
        let (plan, generator) = self.on_device(|compute| {
            let plan = self.plan(config, compute)?;
            let kept = usize::try_from(plan.limits.condition_cache_bytes).unwrap_or(usize::MAX);
            let generator = Generator::load(&self.bundle, &compute.device, compute.dtype, kept);
            Ok((plan, self.loaded(generator)?))
        })?;
        let config = config.planned(&plan.limits);
        let digests = pick(self.digests()?, &SAMPLERS);
        let started = GeneratorSampler::start(&self.bundle, generator, self.subjects()?, digests, &config);
        Ok(Arc::new(started.map_err(anyhow::Error::from)?.with_plan(&plan)))
    }

    /// Plans the device's memory before any weight is loaded, and logs the plan.
    fn plan(&self, config: &SamplerConfig, Compute { device, dtype }: &Compute) -> Result<MemoryPlan, Failure> {
        let memory = DeviceMemory::of(device).context("the device does not say its memory")?;
        let request = plan_request(&self.bundle, device.is_cpu(), *dtype, memory, config);
        let plan = MemoryPlan::new(&request).map_err(|error| Failure::usage(error.to_string()))?;
        let pictures = plan.budgets.iter().map(|budget| format!("{}: {}", budget.name, budget.pictures));
        info!(
            memory_bytes = memory.map(|memory| memory.free),
            weight_bytes = plan.weight_bytes(),
            reserve_bytes = plan.reserve_bytes,
            left_bytes = plan.left_bytes,
            max_kv_bytes = plan.limits.max_kv_bytes,
            condition_cache_bytes = plan.limits.condition_cache_bytes,
            pictures = pictures.collect::<Vec<_>>().join(", "),
            "memory plan"
        );
        debug!("{}", plan.table());
        if let Some(complaint) = plan.complaint() {
            warn!("{complaint}");
        }
        Ok(plan)
    }

    fn digests(&self) -> Result<&BTreeMap<String, String>, Failure> {
        Ok(self.bundle.digests().map_err(anyhow::Error::from)?)
    }

    /// What was loaded, or an error that names the bundle.
    fn loaded<T, E>(&self, loaded: Result<T, E>) -> Result<T, Failure>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let path = || self.bundle.manifest_path().display();
        Ok(loaded.with_context(|| format!("cannot load the bundle {}", path()))?)
    }
}

/// Returns what a sampler with these settings plans for.
pub fn plan_request<'a>(
    bundle: &'a Bundle,
    is_cpu: bool,
    dtype: DType,
    memory: Option<DeviceMemory>,
    config: &SamplerConfig,
) -> PlanRequest<'a> {
    PlanRequest {
        bundle,
        is_cpu,
        work: Work::of(is_cpu, dtype),
        converted: None,
        memory,
        max_batch: config.max_batch,
        subject_cache_bytes: config.subject_cache_bytes,
        set: config.set_limits(),
    }
}

fn pick(digests: &BTreeMap<String, String>, networks: &[Network]) -> BTreeMap<String, String> {
    let names = networks.iter().map(|network| network.name());
    names.filter_map(|name| Some((name.to_owned(), digests.get(name)?.clone()))).collect()
}

fn subject_keys(defaults: &SamplingDefaults, digests: &BTreeMap<String, String>) -> SubjectKeys {
    SubjectKeys {
        encoders: pick(digests, &ENCODERS).into_values().collect::<Vec<_>>().join("+"),
        dtypes: Vec::new(),
        finders: String::new(),
        default_pixel_budget: defaults.pixel_budget,
        resolutions: defaults.subject_resolution.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn limits_follow_from_a_plan_and_what_cannot_fit_is_refused_before_anything_is_loaded() {
        let mini = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini");
        let model = ModelConfig {
            bundle: mini.display().to_string(),
            device: "cpu".parse().unwrap(),
            ..ModelConfig::default()
        };
        let compute = model.compute().unwrap();
        let loader = Loader { bundle: model.open().unwrap(), model, finder: FinderConfig::default() };
        let plan = loader.plan(&SamplerConfig::default(), &compute).unwrap();
        assert_eq!((plan.limits.max_batch_tokens, plan.budgets.len()), (Some(8_192), 1));
        assert_eq!(plan.limits.max_kv_bytes, SamplerConfig::default().kv_bytes(), "{}", plan.table());
        let set = SamplerConfig { condition_cache_bytes: Some(1 << 50), ..SamplerConfig::default() };
        let failure = loader.plan(&set, &compute).unwrap_err();
        assert!(failure.message.starts_with("sampler.condition_cache_bytes is 1125899906842624"), "{failure}");
    }
}
