//! What the networks really allocate, compared with the memory plan: weights, key-value caches, conditions, and the working
//! memory of a batch. One test, since what another allocates meanwhile would count.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

#[path = "../../../protocol/tests/memory/peak.rs"]
mod peak;

use std::{ops::ControlFlow, path::Path, sync::atomic::Ordering};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use echogen_checkpoint::bundle::{Bundle, Network};
use echogen_models::{
    echogen::{EchoGen, FeatureKeys, SampleRequest, Sampler, SamplingOptions, Schedule, SubjectFeatures, is_ignored},
    layers::{Kernels, with_kernels},
    plan::{Demand, NetworkWeights, Work, sampler_weights},
    random::CounterRng,
    sizes::{Sizes, SubjectTokens},
    t5::T5Encoder,
    visual_tokenizer::TokenizerDecoder,
};
use peak::peak_of;

#[global_allocator]
static ALLOCATOR: peak::Counting = peak::Counting;

/// Bytes beside tensors: names, lists, layouts.
const SPARE: u64 = 256 << 10;

/// Bytes that the loops on a CPU take beside tensors: scores, and packed and transformed blocks, of several tasks of each
/// thread.
const SCRATCH: u64 = 16 << 20;

/// Returns what `work` makes, and the bytes that remain allocated.
fn kept_by<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = peak::NOW.load(Ordering::Relaxed);
    let done = work();
    (done, peak::NOW.load(Ordering::Relaxed).saturating_sub(before) as u64)
}

#[track_caller]
fn assert_near(measured: u64, planned: u64, what: &str) {
    assert!((planned..planned + SPARE).contains(&measured), "{what}: measured {measured}, planned {planned}");
}

fn loaded_weights(bundle: &Bundle, sizes: &Sizes, network: Network, dtype: DType) -> u64 {
    let on = |dtype| (&Device::Cpu, dtype);
    let load = || match network {
        Network::Transformer => {
            let config = &sizes.transformer;
            let build = |vb: VarBuilder<'static>| EchoGen::new(vb, config, dtype);
            Box::new(bundle.load(network, on(DType::F32), |name| is_ignored(config, name), build).unwrap())
                as Box<dyn std::any::Any>
        }
        Network::TextEncoder => {
            let build = |vb: VarBuilder<'static>| T5Encoder::new(vb, &sizes.text_encoder);
            Box::new(bundle.load(network, on(dtype), T5Encoder::is_ignored, build).unwrap())
        }
        _ => {
            let build = |vb: VarBuilder<'static>| TokenizerDecoder::new(vb, &sizes.tokenizer);
            Box::new(bundle.load(network, on(dtype), TokenizerDecoder::ignores, build).unwrap())
        }
    };
    kept_by(load).1
}

fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut values = vec![0f32; shape.iter().product()];
    CounterRng::new(seed, 99).fill_normal(&mut values);
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A request for a picture with a prompt and a subject of its own.
fn request(sizes: &Sizes, subject: SubjectTokens, words: usize, seed: u64) -> SampleRequest {
    let size = &sizes.transformer;
    SampleRequest {
        text: noise(&[words, size.text_channels], seed),
        negative_text: None,
        subject: SubjectFeatures {
            cls_token: noise(&[size.semantic_dim], seed + 1),
            patch_tokens: noise(&[subject.patches, size.semantic_dim], seed + 2),
            content: noise(&[subject.content, size.content_dim], seed + 3),
        },
        keys: FeatureKeys::default(),
        seed,
        options: SamplingOptions::default(),
    }
}

/// Returns the most bytes that were allocated while a batch was sampled.
fn sampled(sampler: &Sampler, requests: &[SampleRequest], schedule: &Schedule) -> u64 {
    let work = || sampler.sample(requests, schedule, |_, _| ControlFlow::Continue(())).unwrap();
    peak_of(work).1 as u64
}

#[test]
fn the_plan_is_what_is_allocated() {
    let mini = Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini")).unwrap();
    let sizes = Sizes::of(&mini).unwrap();
    for dtype in [DType::F32, DType::BF16] {
        for planned in sampler_weights(&mini, &sizes, dtype, None).unwrap() {
            let network = Network::ALL.into_iter().find(|network| network.name() == planned.network).unwrap();
            let measured = loaded_weights(&mini, &sizes, network, dtype);
            assert_near(measured, NetworkWeights::bytes(&planned), &format!("{network} in {dtype:?}"));
        }
    }
    for (dtype, kernels) in
        [(DType::F32, Kernels::Own), (DType::F32, Kernels::Generic), (DType::BF16, Kernels::Generic)]
    {
        with_kernels(kernels, || batch(&mini, &sizes, dtype, kernels));
    }
}

/// Compares batches of one and of four pictures.
fn batch(mini: &Bundle, sizes: &Sizes, dtype: DType, kernels: Kernels) {
    let config = &sizes.transformer;
    let ignored = |name: &str| is_ignored(config, name);
    let build = |vb: VarBuilder<'static>| EchoGen::new(vb, config, dtype);
    let model = mini.load(Network::Transformer, (&Device::Cpu, DType::F32), ignored, build).unwrap();
    let sampler = Sampler::new(model, 0);
    // Larger than what the model was trained for, so that tokens weigh more than what is counted for none.
    let scales = [1, 2, 4, 8, 16, 24].map(|side| (side, side)).to_vec();
    let schedule = Schedule::new(scales, (24, 24)).unwrap();
    let subject = SubjectTokens { content: config.content_len, patches: config.semantic_len - 1 };
    // candle's operations are those of a GPU.
    let work = Work::of(kernels == Kernels::Own, dtype);
    let demand = Demand { transformer: config, tokenizer: &sizes.tokenizer, schedule: &schedule, subject, work };
    assert_eq!(demand.kv_bytes(), sampler.model().kv_cache_bytes(&schedule) as u64);
    for pictures in [1, 4] {
        let requests: Vec<_> = (0..pictures).map(|n| request(sizes, subject, 20 + n as usize, 10 * n)).collect();
        let rows = 2 * pictures;
        let measured = sampled(&sampler, &requests, &schedule);
        let held = rows * (demand.kv_bytes() + demand.condition_bytes(20 + pictures as usize).all());
        let planned = held + demand.sampling_bytes(rows);
        let what = format!("{pictures} pictures in {dtype:?}, {kernels:?}: measured {measured}, planned {planned}");
        assert!((planned / 5 * 4..planned + SCRATCH).contains(&measured), "{what}, of it held {held}");
    }
    if dtype == DType::F32 {
        // Larger than the loops' blocks.
        let schedule = Schedule::new(vec![(1, 1), (48, 48)], (48, 48)).unwrap();
        decoded(mini, sizes, &Demand { schedule: &schedule, ..demand }, kernels);
    }
}

/// Compares the decoding of one picture.
fn decoded(mini: &Bundle, sizes: &Sizes, demand: &Demand, kernels: Kernels) {
    let build = |vb: VarBuilder<'static>| TokenizerDecoder::new(vb, &sizes.tokenizer);
    let on = (&Device::Cpu, DType::F32);
    let decoder = mini.load(Network::VisualTokenizer, on, TokenizerDecoder::ignores, build).unwrap();
    let (height, width) = demand.schedule.last();
    let codes = noise(&[1, sizes.tokenizer.bits, height, width], 7);
    let measured = peak_of(|| decoder.forward(&codes).unwrap()).1 as u64;
    let planned = demand.decoding_bytes();
    let what = format!("decoding with {kernels:?}: measured {measured}, planned {planned}");
    // candle unrolls a convolution's inputs whole on a GPU, and in blocks on a CPU.
    let least = if kernels == Kernels::Own { planned / 2 } else { 0 };
    assert!((least..planned + 3 * SCRATCH).contains(&measured), "{what}");
}
