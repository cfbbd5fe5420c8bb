//! Loads the networks of a bundle, checked against its sums, and puts each group on its thread.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use anyhow::{Context, anyhow};
use echogen_checkpoint::bundle::{Bundle, Network, SamplingDefaults};
use echogen_encoder::{NetworkEncoder, SubjectEncoder};
use echogen_models::{
    device::Compute, feature_extractor::FeatureExtractor, generator::Generator, subject_finder::SubjectFinder,
};
use echogen_protocol::{PixelBudget, SubjectKeys};
use echogen_sampler::{GeneratorSampler, SamplerConfig};
use echogen_segmenter::{Detector, FinderConfig, GivenBox, NetworkDetector};

use crate::{failure::Failure, model_options::ModelOptions, pipeline::Networks};

/// Bytes of conditions kept across jobs (prompts' and subjects' keys and values).
const CONDITION_CACHE_BYTES: usize = 1 << 30;

/// The networks that encode a subject, and those that make pictures.
const ENCODERS: [Network; 2] = [Network::Dinov2, Network::FluxVae];
const SAMPLERS: [Network; 3] = [Network::TextEncoder, Network::Transformer, Network::VisualTokenizer];

/// The networks that find a subject; a bundle may lack them.
const FINDERS: [Network; 3] = [Network::Namer, Network::Detector, Network::SegmentAnything];

/// Loads networks of one bundle, each group when it is asked for.
pub(crate) struct Loader {
    bundle: Bundle,
    options: ModelOptions,
    /// Opened for the first network: a dispatcher has none, and leaves the GPU to others.
    compute: OnceLock<Compute>,
    finder: FinderConfig,
}

/// All the networks of the bundle that the options name.
pub(crate) fn load(options: &ModelOptions) -> Result<Networks, Failure> {
    let loader = Loader::open(options)?;
    Ok(Networks {
        detector: loader.detector()?,
        encoder: loader.encoder()?,
        sampler: loader.sampler(&SamplerConfig::default())?,
        subjects: loader.subjects()?,
    })
}

impl Loader {
    /// Opens the bundle that the options name.
    pub(crate) fn open(options: &ModelOptions) -> Result<Self, Failure> {
        let (bundle, finder) = (options.bundle()?, options.finder.config());
        Ok(Self { bundle, options: options.clone(), compute: OnceLock::new(), finder })
    }

    /// Opens the device, once, and sets the number of threads.
    fn compute(&self) -> Result<&Compute, Failure> {
        if let Some(compute) = self.compute.get() {
            return Ok(compute);
        }
        let compute = self.options.compute()?;
        Ok(self.compute.get_or_init(|| compute))
    }

    /// The bundle's name.
    pub(crate) fn bundle_name(&self) -> &str {
        self.bundle.name()
    }

    /// What cut-outs and encoded subjects depend on; loads nothing.
    pub(crate) fn subjects(&self) -> Result<SubjectKeys, Failure> {
        let digests = self.digests()?;
        let models = pick(digests, &FINDERS);
        let finders = match models.is_empty() {
            true => GivenBox.version(),
            false => NetworkDetector::version_of(&self.finder, &models),
        };
        Ok(SubjectKeys { finders, ..subject_keys(&self.bundle.manifest().sampling, digests)? })
    }

    /// Where the subject is: by the networks that find it, as far as the bundle has them.
    pub(crate) fn detector(&self) -> Result<Arc<dyn Detector>, Failure> {
        let models = pick(self.digests()?, &FINDERS);
        if models.is_empty() {
            return Ok(Arc::new(GivenBox));
        }
        let Compute { device, dtype } = self.compute()?;
        let finder = SubjectFinder::load(&self.bundle, device, *dtype).with_context(|| self.cannot_load())?;
        let started = NetworkDetector::start(finder, self.finder.clone(), models).map_err(anyhow::Error::from)?;
        Ok(Arc::new(started))
    }

    /// Cut-out to encoded subject.
    pub(crate) fn encoder(&self) -> Result<Arc<dyn SubjectEncoder>, Failure> {
        let Compute { device, dtype } = self.compute()?;
        let networks = FeatureExtractor::load(&self.bundle, device, *dtype).with_context(|| self.cannot_load())?;
        let started = NetworkEncoder::start(networks, pick(self.digests()?, &ENCODERS)).map_err(anyhow::Error::from)?;
        Ok(Arc::new(started))
    }

    /// Encoded subject and prompt to pictures.
    pub(crate) fn sampler(&self, config: &SamplerConfig) -> Result<Arc<GeneratorSampler>, Failure> {
        let Compute { device, dtype } = self.compute()?;
        let generator =
            Generator::load(&self.bundle, device, *dtype, CONDITION_CACHE_BYTES).with_context(|| self.cannot_load())?;
        let digests = pick(self.digests()?, &SAMPLERS);
        let started = GeneratorSampler::start(&self.bundle, generator, self.subjects()?, digests, config);
        Ok(Arc::new(started.map_err(anyhow::Error::from)?))
    }

    fn digests(&self) -> Result<&BTreeMap<String, String>, Failure> {
        Ok(self.bundle.digests().map_err(anyhow::Error::from)?)
    }

    fn cannot_load(&self) -> String {
        format!("cannot load the bundle {}", self.bundle.manifest_path().display())
    }
}

fn pick(digests: &BTreeMap<String, String>, networks: &[Network]) -> BTreeMap<String, String> {
    let names = networks.iter().map(|network| network.name());
    names.filter_map(|name| Some((name.to_owned(), digests.get(name)?.clone()))).collect()
}

fn subject_keys(defaults: &SamplingDefaults, digests: &BTreeMap<String, String>) -> anyhow::Result<SubjectKeys> {
    let encoders = pick(digests, &ENCODERS).into_values().collect::<Vec<_>>().join("+");
    let named = |name: &str| budget(name).ok_or_else(|| anyhow!("the bundle names an unknown pixel budget {name:?}"));
    let resolutions = defaults.subject_resolution.iter().map(|(name, side)| Ok((named(name)?, *side)));
    Ok(SubjectKeys {
        encoders,
        finders: String::new(),
        default_pixel_budget: named(&defaults.pixel_budget)?,
        resolutions: resolutions.collect::<anyhow::Result<_>>()?,
    })
}

fn budget(name: &str) -> Option<PixelBudget> {
    let all = [PixelBudget::M0_004, PixelBudget::M0_06, PixelBudget::M0_25, PixelBudget::M0_60, PixelBudget::M1];
    all.into_iter().find(|budget| budget.as_str() == name)
}
