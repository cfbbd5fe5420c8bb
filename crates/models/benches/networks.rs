//! Benchmarks of the large networks at the published 125M size and 256 pixels, float32 on the CPU.
//!
//! `cargo bench -p echogen-models` runs all parts with weights drawn from a fixed seed. `tests/bench/compare.py` runs
//! one part per process with weights it wrote itself, and compares with PyTorch on the same weights. Prints one JSON
//! line per part: seconds of every measured run, and the peak memory of the process.
#![allow(clippy::print_stdout, reason = "a benchmark reports to a person")]

use std::{collections::HashMap, ops::ControlFlow, path::PathBuf, time::Instant};

use anyhow::{Context, bail};
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use clap::Parser;
use echogen_checkpoint::Checkpoint;
use echogen_models::{
    dinov2::{Dinov2, Dinov2Config, PositionResampling},
    echogen::{
        EchoGen, EchoGenConfig, FeatureKeys, PerScale, SampleRequest, Sampler, SamplingOptions, Schedules,
        SubjectFeatures, is_ignored,
    },
    flux_vae::{FluxVaeConfig, FluxVaeEncoder},
    grounding_dino::{GroundingDino, GroundingDinoConfig, GroundingDinoInput, PixelMask},
    random::CounterRng,
    visual_tokenizer::{TokenizerConfig, TokenizerDecoder},
};

/// Number of tokens in the prompt.
const TEXT_TOKENS: usize = 32;

/// Benchmarks networks at their published sizes.
#[derive(Parser)]
struct Arguments {
    /// Which parts to run; all if none is named.
    parts: Vec<String>,
    /// A safetensors file with the part's weights; drawn from a fixed seed if absent.
    #[arg(long)]
    weights: Option<PathBuf>,
    /// Counted runs, after one that is not counted.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

const PARTS: [&str; 7] =
    ["sampling-three-rows", "sampling-default", "sampling-second", "decode", "dinov2", "vae-encoder", "grounding-dino"];

/// "a red dog . a cat ." as token ids of BERT's tokenizer.
const CAPTION: [u32; 10] = [101, 1037, 2417, 3899, 1012, 1037, 4937, 2006, 1012, 102];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let named = arguments.parts.iter().map(String::as_str);
    let parts: Vec<_> = if arguments.parts.is_empty() { PARTS.to_vec() } else { named.collect() };
    for part in parts {
        let mut run = prepare(part, &arguments)?;
        run()?;
        let seconds = (0..arguments.runs).map(|_| {
            let start = Instant::now();
            run()?;
            Ok(start.elapsed().as_secs_f64())
        });
        let seconds = seconds.collect::<anyhow::Result<Vec<_>>>()?;
        println!("{}", serde_json::json!({ "part": part, "seconds": seconds, "peak_mib": peak_mib()? }));
    }
    Ok(())
}

type Run = Box<dyn FnMut() -> anyhow::Result<()>>;

/// Keeps the result alive, so the computation cannot be optimised away.
fn done<T>(result: &T) -> anyhow::Result<()> {
    std::hint::black_box(result);
    Ok(())
}

fn prepare(part: &str, arguments: &Arguments) -> anyhow::Result<Run> {
    Ok(match part {
        "sampling-three-rows" => sampling(
            arguments,
            SamplingOptions { guidance_text: PerScale::All(3.0), ..SamplingOptions::default() },
            false,
        )?,
        "sampling-default" => sampling(arguments, SamplingOptions::default(), false)?,
        "sampling-second" => sampling(arguments, SamplingOptions::default(), true)?,
        "decode" => {
            let config = TokenizerConfig::published(16);
            let decoder = load(arguments, TokenizerDecoder::ignores, |vb| TokenizerDecoder::new(vb, &config))?;
            let codes = noise(&[1, 16, 16, 16], 1)?;
            Box::new(move || done(&decoder.forward(&codes)?))
        }
        "dinov2" => {
            let config = Dinov2Config::vit_b14();
            let network = load(arguments, Dinov2::is_ignored, |vb| Dinov2::new(vb, &config))?;
            let network = network.with_grid(16, 16, PositionResampling::Antialiased)?;
            let image = noise(&[1, 3, 256, 256], 2)?;
            Box::new(move || done(&network.forward(&network.prepare(&image)?)?))
        }
        "vae-encoder" => {
            let config = FluxVaeConfig::flux1();
            let encoder = load(arguments, FluxVaeEncoder::ignores, |vb| FluxVaeEncoder::new(vb, &config))?;
            let image = noise(&[1, 3, 256, 256], 3)?;
            Box::new(move || done(&encoder.forward(&image)?))
        }
        "grounding-dino" => {
            let config = GroundingDinoConfig::tiny();
            let network = load(arguments, GroundingDino::is_ignored, |vb| GroundingDino::new(vb, &config))?;
            let (image, mask) = (noise(&[1, 3, 800, 800], 8)?, PixelMask::whole(1, 800, 800));
            let caption = Tensor::new(&[CAPTION], &Device::Cpu)?;
            Box::new(move || {
                done(&network.forward(&GroundingDinoInput {
                    pixel_values: &image,
                    pixel_mask: &mask,
                    input_ids: &caption,
                    attention_mask: None,
                    token_type_ids: None,
                })?)
            })
        }
        _ => bail!("no part is called {part}; there are {}", PARTS.join(", ")),
    })
}

/// Samples one picture per run. Unless `keep` is set, conditions are not cached, as for a process's first picture.
fn sampling(arguments: &Arguments, options: SamplingOptions, keep: bool) -> anyhow::Result<Run> {
    let config = EchoGenConfig::layer12();
    let model = load(arguments, |name| is_ignored(&config, name), |vb| EchoGen::new(vb, &config, DType::F32))?;
    let sampler = Sampler::new(model, if keep { 1 << 30 } else { 0 });
    let schedule = Schedules::published().nearest(1.0, "0.06M")?;
    let request = SampleRequest {
        text: noise(&[TEXT_TOKENS, config.text_channels], 4)?,
        negative_text: None,
        subject: SubjectFeatures {
            cls_token: noise(&[config.semantic_dim], 5)?,
            patch_tokens: noise(&[config.semantic_len - 1, config.semantic_dim], 6)?,
            content: noise(&[config.content_len, config.content_dim], 7)?,
        },
        keys: FeatureKeys::default(),
        seed: 0,
        options,
    };
    let mut seed = 0;
    Ok(Box::new(move || {
        seed += 1;
        let requests = [SampleRequest { seed, ..request.clone() }];
        sampler.sample(&requests, &schedule, |_, _| ControlFlow::Continue(()))?;
        Ok(())
    }))
}

fn load<T>(
    arguments: &Arguments,
    ignored: impl Fn(&str) -> bool,
    build: impl FnOnce(VarBuilder<'static>) -> candle_core::Result<T>,
) -> anyhow::Result<T> {
    match &arguments.weights {
        Some(path) => Ok(Checkpoint::open(path)?.load(DType::F32, &Device::Cpu, ignored, build)?),
        None => Ok(build(VarBuilder::from_backend(Box::new(Drawn), DType::F32, Device::Cpu))?),
    }
}

fn noise(shape: &[usize], seed: u64) -> candle_core::Result<Tensor> {
    let mut values = vec![0f32; shape.iter().product()];
    CounterRng::new(seed, 0).fill_normal(&mut values);
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// A backend that fills every requested weight from a fixed seed: ones for norm weights, else noise scaled to keep
/// activations in range.
struct Drawn;

impl SimpleBackend for Drawn {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let inputs: usize = shape.dims().iter().skip(1).product::<usize>().max(1);
        let spread = if shape.rank() > 1 { (1.0 / inputs as f64).sqrt() } else { 0.02 };
        let seed = name.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(byte.into()));
        let is_norm = shape.rank() == 1 && name.ends_with("weight");
        let drawn = noise(shape.dims(), seed)?.affine(spread, if is_norm { 1.0 } else { 0.0 })?;
        drawn.to_dtype(dtype)?.to_device(device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let config = EchoGenConfig::layer12();
        let tables = HashMap::from([
            ("cfg_uncond", (config.text_maxlen, config.text_channels)),
            ("control_features_uncond", (config.semantic_len, config.semantic_dim)),
            ("control_features_refer_uncond", (config.content_len, config.content_dim)),
        ]);
        let Some(shape) = tables.get(name) else { candle_core::bail!("{name} has no shape of its own") };
        self.get(Shape::from(*shape), name, Init::Const(0.0), dtype, device)
    }

    fn contains_tensor(&self, _: &str) -> bool {
        true
    }
}

/// Returns the peak memory of this process in MiB.
fn peak_mib() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("the peak of memory is read from /proc")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib / 1024.0)
}
