//! Loads the networks of a bundle, checked against its sums, and puts each group on its thread.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use anyhow::{Context, anyhow};
use echogen_encoder::NetworkEncoder;
use echogen_models::{
    DType, Device,
    bundle::{Bundle, Network, SamplingDefaults},
    generator::{Generator, load_subject_encoder},
};
use echogen_protocol::{PixelBudget, SubjectKeys};
use echogen_sampler::GeneratorSampler;
use echogen_segmenter::GivenBox;

use crate::{arguments::RunOptions, bundles, failure::Failure, pipeline::Networks};

/// Bytes of conditions kept across jobs (prompts' and subjects' keys and values).
const CONDITION_CACHE_BYTES: usize = 1 << 30;

/// The networks that encode a subject, and those that make pictures.
const ENCODERS: [Network; 2] = [Network::Dinov2, Network::FluxVae];
const SAMPLERS: [Network; 3] = [Network::TextEncoder, Network::Transformer, Network::VisualTokenizer];

/// Loads the bundle that the options name.
pub(crate) fn load(options: &RunOptions) -> Result<Networks, Failure> {
    let bundle = bundles::open(&options.bundle, options.bundles.as_deref())?;
    if let Some(threads) = options.threads {
        use_threads(usize::from(threads))?;
    }
    Ok(start(&bundle)?)
}

/// The networks compute on rayon's global threads; this sets their number, once a process.
fn use_threads(threads: usize) -> Result<(), Failure> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| Failure::usage(format!("cannot use {threads} threads: {error}; leave --threads out")))
}

fn start(bundle: &Bundle) -> anyhow::Result<Networks> {
    let (device, dtype) = (Device::Cpu, DType::F32);
    let digests = bundle.digests()?;
    let subjects = subject_keys(&bundle.manifest().sampling, digests)?;
    let encoder = load_subject_encoder(bundle, &device, dtype).with_context(|| cannot_load(bundle.manifest_path()))?;
    let generator = Generator::load(bundle, &device, dtype, CONDITION_CACHE_BYTES)
        .with_context(|| cannot_load(bundle.manifest_path()))?;
    let encoder = NetworkEncoder::start(encoder, pick(digests, &ENCODERS))?;
    let sampler = GeneratorSampler::start(bundle, generator, subjects.clone(), pick(digests, &SAMPLERS))?;
    Ok(Networks { detector: Arc::new(GivenBox), encoder: Arc::new(encoder), sampler: Arc::new(sampler), subjects })
}

fn cannot_load(manifest: &Path) -> String {
    format!("cannot load the bundle {}", manifest.display())
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
        default_pixel_budget: named(&defaults.pixel_budget)?,
        resolutions: resolutions.collect::<anyhow::Result<_>>()?,
    })
}

fn budget(name: &str) -> Option<PixelBudget> {
    let all = [PixelBudget::M0_004, PixelBudget::M0_06, PixelBudget::M0_25, PixelBudget::M0_60, PixelBudget::M1];
    all.into_iter().find(|budget| budget.as_str() == name)
}
