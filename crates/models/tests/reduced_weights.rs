//! Bundles with reduced weights: what is stored is what the networks read, and pictures in bf16 stay the same.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::{
    collections::BTreeMap,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use echogen_checkpoint::{
    Checkpoint, Form, StoredType, WeightType,
    bundle::{Bundle, Network},
};
use echogen_models::{
    dinov2::{Dinov2, Dinov2Config},
    echogen::{EchoGen, EchoGenConfig, SamplingOptions, Schedules, SubjectFeatures, is_ignored},
    encoded_subject::EncodedSubject,
    flux_vae::{FluxVaeConfig, FluxVaeEncoder},
    generator::{Generator, ImageRequest},
    plan::{NetworkWeights, sampler_weights},
    random::CounterRng,
    reduced_weights::{forms, weight_type},
    sizes::Sizes,
    t5::{T5Config, T5Encoder},
    visual_tokenizer::{TokenizerConfig, TokenizerDecoder},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn mini() -> Bundle {
    Bundle::open(&root().join("bundles/mini")).unwrap()
}

/// Converts mini to a folder `mini-TYPE` in `folder`.
fn converted(folder: &Path, dtype: WeightType) -> Bundle {
    let bundle = mini();
    let target = folder.join(format!("mini-{dtype}"));
    bundle.convert(&target, &forms(&bundle, dtype).unwrap(), "Reduced.", &mut |_, _| {}).unwrap()
}

/// Notes the type in which each tensor is requested.
struct Recorder(Checkpoint, Arc<Mutex<BTreeMap<String, DType>>>);

impl SimpleBackend for Recorder {
    fn get(&self, _: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.get_unchecked(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.1.lock().unwrap().insert(name.to_owned(), dtype);
        self.0.tensor(name, dtype, device).map_err(candle_core::Error::wrap)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.shape(name).is_some()
    }
}

/// Returns the type in which a network requests each of its tensors when it computes in `dtype`.
fn requested(bundle: &Bundle, network: Network, dtype: DType) -> BTreeMap<String, DType> {
    let requests = Arc::<Mutex<BTreeMap<String, DType>>>::default();
    let backend = Recorder(bundle.checkpoint(network).unwrap(), Arc::clone(&requests));
    let vb = |dtype| VarBuilder::from_backend(Box::new(backend), dtype, Device::Cpu);
    match network {
        Network::Transformer => {
            let config: EchoGenConfig = bundle.config(network).unwrap();
            EchoGen::new(vb(DType::F32), &config, dtype).map(drop)
        }
        Network::TextEncoder => T5Encoder::new(vb(dtype), &bundle.config::<T5Config>(network).unwrap()).map(drop),
        Network::Dinov2 => Dinov2::new(vb(dtype), &bundle.config::<Dinov2Config>(network).unwrap()).map(drop),
        Network::FluxVae => FluxVaeEncoder::new(vb(dtype), &bundle.config::<FluxVaeConfig>(network).unwrap()).map(drop),
        Network::VisualTokenizer => {
            TokenizerDecoder::new(vb(dtype), &bundle.config::<TokenizerConfig>(network).unwrap()).map(drop)
        }
        other => panic!("{other} keeps its weights"),
    }
    .unwrap();
    requests.lock().unwrap().clone()
}

const REDUCED: [Network; 5] =
    [Network::Transformer, Network::TextEncoder, Network::Dinov2, Network::FluxVae, Network::VisualTokenizer];

#[test]
fn the_stored_type_is_the_one_that_the_network_reads() {
    let bundle = mini();
    for (weights, dtype) in [(WeightType::Bf16, DType::BF16), (WeightType::F16, DType::F16)] {
        for network in REDUCED {
            let checkpoint = bundle.checkpoint(network).unwrap();
            for (name, requested) in requested(&bundle, network, dtype) {
                let shape = checkpoint.shape(&name).unwrap();
                let stored = weight_type(network, &name, shape, weights);
                let expected = if requested == DType::F32 { None } else { Some(weights) };
                assert_eq!(stored, expected, "{network} {name} is read as {requested:?}");
            }
        }
    }
}

fn size(bundle: &Bundle, network: Network) -> u64 {
    bundle.manifest().network(network).unwrap().files.iter().map(|file| file.size.unwrap()).sum()
}

/// Makes one picture of a constant subject.
fn picture(bundle: &Bundle, dtype: DType) -> Vec<u8> {
    let generator = Generator::load(bundle, &Device::Cpu, dtype, 64 << 20).unwrap();
    let config: EchoGenConfig = bundle.config(Network::Transformer).unwrap();
    let request = ImageRequest {
        prompt: "a red mug on a beach".to_owned(),
        negative_prompt: None,
        subject: Arc::new(EncodedSubject::blank(&config, 64).unwrap()),
        seed: 7,
        options: SamplingOptions::default(),
    };
    let schedule = generator.schedules().nearest(1.0, "0.004M").unwrap();
    let pictures = generator.generate(&[request], &schedule, |_, _| ControlFlow::Continue(())).unwrap();
    pictures[0].as_raw().clone()
}

#[test]
fn the_bytes_of_a_conversion_are_known_before_it() {
    let (bundle, folder) = (mini(), tempfile::tempdir().unwrap());
    for (dtype, computed) in [(WeightType::Bf16, DType::BF16), (WeightType::Q8_0, DType::F32)] {
        let bytes = |bundle: &Bundle, converted| {
            let sizes = Sizes::of(bundle).unwrap();
            let weights = sampler_weights(bundle, &sizes, computed, converted).unwrap();
            weights.iter().map(NetworkWeights::bytes).collect::<Vec<_>>()
        };
        assert_eq!(bytes(&bundle, Some(dtype)), bytes(&converted(folder.path(), dtype), None), "{dtype}");
    }
}

#[test]
fn a_bundle_in_bf16_makes_the_same_pictures_from_half_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (original, reduced) = (mini(), converted(folder.path(), WeightType::Bf16));
    assert_eq!(reduced.name(), "mini-bf16");
    assert!(reduced.manifest().description.ends_with(" Reduced."));
    reduced.verify(&mut |_, _| {}).into_iter().for_each(|file| drop(file.unwrap()));
    assert_eq!(reduced.digests().unwrap().len(), original.digests().unwrap().len());
    let wide = converted(folder.path(), WeightType::F32);
    for (network, percent) in [(Network::Transformer, 65), (Network::TextEncoder, 52), (Network::FluxVae, 52)] {
        let (before, after) = (size(&wide, network), size(&reduced, network));
        assert!(after * 100 < before * percent, "{network}: {after} of {before}");
    }
    assert_eq!(picture(&reduced, DType::BF16), picture(&original, DType::BF16));
    // Everything that was read in bf16 is stored in it: nothing is cast.
    let [checkpoint, before] = [&reduced, &original].map(|bundle| bundle.checkpoint(Network::TextEncoder).unwrap());
    for (name, requested) in requested(&reduced, Network::TextEncoder, DType::BF16) {
        let kept = before.stored_type(&name);
        let expected = if requested == DType::F32 { kept } else { Some(StoredType::BF16) };
        assert_eq!(checkpoint.stored_type(&name), expected, "{name}");
    }
    // A second conversion to the same folder replaces nothing.
    let again = original.convert(&folder.path().join("mini-bf16"), &|_, _, _| Form::AsStored, "", &mut |_, _| {});
    assert!(again.unwrap_err().to_string().contains("exists already"));
}

#[test]
fn a_bundle_in_q8_0_loads_and_makes_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let reduced = converted(folder.path(), WeightType::Q8_0);
    let wide = converted(folder.path(), WeightType::Bf16);
    for (network, percent) in [(Network::Transformer, 65), (Network::TextEncoder, 62)] {
        let (before, after) = (size(&wide, network), size(&reduced, network));
        assert!(after * 100 < before * percent, "{network}: {after} of {before}");
    }
    assert_eq!(picture(&reduced, DType::F32).len(), 128 * 128 * 3);
    assert_eq!(picture(&reduced, DType::BF16).len(), 128 * 128 * 3);
    // Converted once more, blocks stay blocks.
    let again = folder.path().join("again");
    let again = reduced.convert(&again, &forms(&reduced, WeightType::Bf16).unwrap(), "", &mut |_, _| {}).unwrap();
    assert_eq!(picture(&again, DType::F32), picture(&reduced, DType::F32));
}

/// Returns the text features of a prompt, and the logits of known codes and a drawn subject, with the weights of `bundle`.
fn text_and_logits(bundle: &Bundle, dtype: DType) -> [Vec<f32>; 2] {
    let config: T5Config = bundle.config(Network::TextEncoder).unwrap();
    let on = (&Device::Cpu, dtype);
    let encoder =
        bundle.load(Network::TextEncoder, on, T5Encoder::is_ignored, |vb| T5Encoder::new(vb, &config)).unwrap();
    let ids = Tensor::new(&[[17u32, 203, 5, 88, 411, 42, 9, 130, 1]], &Device::Cpu).unwrap();
    let text = encoder.forward(&ids, None).unwrap();
    let config: EchoGenConfig = bundle.config(Network::Transformer).unwrap();
    let (on, ignored) = ((&Device::Cpu, DType::F32), |name: &str| is_ignored(&config, name));
    let model = bundle.load(Network::Transformer, on, ignored, |vb| EchoGen::new(vb, &config, dtype)).unwrap();
    let mut drawn = CounterRng::new(3, 0);
    let mut draw = |shape: &[usize]| {
        let mut values = vec![0.0; shape.iter().product()];
        drawn.fill_normal(&mut values);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let subject = SubjectFeatures {
        cls_token: draw(&[config.semantic_dim]),
        patch_tokens: draw(&[config.semantic_len - 1, config.semantic_dim]),
        content: draw(&[config.content_len, config.content_dim]),
    };
    let schedule = Schedules::published().nearest(1.0, "0.004M").unwrap();
    let inputs = (draw(&[schedule.image_tokens() - 1, config.bits]) * 0.2).unwrap();
    let words = draw(&[9, config.text_channels]);
    let (logits, _) = model.teacher_forced(&words, &subject, &inputs, &schedule).unwrap();
    [text, logits].map(|xs| xs.flatten_all().unwrap().to_vec1().unwrap())
}

fn rms_rel(expected: &[f32], actual: &[f32]) -> f64 {
    let sum = |each: &dyn Fn(f64, f64) -> f64| -> f64 {
        expected.iter().zip(actual).map(|(e, a)| each(f64::from(*e), f64::from(*a))).sum()
    };
    (sum(&|e, a| (e - a) * (e - a)) / sum(&|e, _| e * e)).sqrt()
}

/// The bounds are twice what was measured, and the error of 8-bit weights is that of computing in bf16.
#[test]
fn the_error_of_8_bit_weights_is_that_of_bf16() {
    let folder = tempfile::tempdir().unwrap();
    let exact = text_and_logits(&mini(), DType::F32);
    let errors = |bundle: &Bundle, dtype| {
        let found = text_and_logits(bundle, dtype);
        [0, 1].map(|index| rms_rel(&exact[index], &found[index]))
    };
    let rounded = errors(&mini(), DType::BF16);
    let reduced = converted(folder.path(), WeightType::Q8_0);
    let (blocks, both) = (errors(&reduced, DType::F32), errors(&reduced, DType::BF16));
    println!("text, logits: bf16 {rounded:?}, q8_0 in f32 {blocks:?}, q8_0 in bf16 {both:?}");
    for (index, bound) in [(0, 0.007), (1, 0.04)] {
        assert!(blocks[index] > 1e-4 && blocks[index] < bound, "{blocks:?}");
        assert!(both[index] < 2.5 * rounded[index], "{both:?} against {rounded:?}");
    }
}
