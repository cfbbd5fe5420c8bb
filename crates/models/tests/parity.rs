//! Runs the comparisons of the example `parity` on the shipped fixtures: by our own loops in f32, and by the generic way, which
//! a GPU takes, in f32, bf16 and f16.

#[path = "../examples/parity/bsq.rs"]
mod bsq;
#[path = "../examples/parity/compare.rs"]
mod compare;
#[path = "../examples/parity/dinov2.rs"]
mod dinov2;
#[path = "../examples/parity/echogen.rs"]
mod echogen;
#[path = "../examples/parity/flux_vae.rs"]
mod flux_vae;
#[path = "../examples/parity/grounding_dino.rs"]
mod grounding_dino;
#[path = "../examples/parity/preprocess.rs"]
mod preprocess;
#[path = "../examples/parity/qwen2_5_vl.rs"]
mod qwen2_5_vl;
#[path = "../examples/parity/sam.rs"]
mod sam;
#[path = "../examples/parity/t5.rs"]
mod t5;

use std::{fs, path::Path};

use candle_core::{DType, Device};
use compare::{Comparison, Setup};
use echogen_checkpoint::{Checkpoint, Form, WeightType, bundle::Network};
use echogen_models::{
    layers::{Kernels, with_kernels},
    reduced_weights::weight_type,
};

type Run = fn(&Path, &Setup) -> anyhow::Result<Vec<Comparison>>;

/// Compares one network in one type. All tensors that are past their limits are named.
fn check(name: &str, at_least: usize, run: Run, kernels: Kernels, dtype: DType) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    let setup = Setup { device: Device::Cpu, dtype };
    let comparisons = with_kernels(kernels, || run(&folder, &setup));
    let comparisons = comparisons.unwrap_or_else(|error| panic!("{name}: {error:#}"));
    assert!(comparisons.len() >= at_least, "{name}: only {} tensors were compared", comparisons.len());
    let past: Vec<_> = comparisons.iter().filter(|comparison| comparison.severity() > 1.0).collect();
    let past: Vec<_> = past.iter().map(|comparison| format!("\n{comparison}")).collect();
    assert!(past.is_empty(), "{kernels:?} {dtype:?}:{}", past.concat());
}

/// The comparisons of one network: its folder, how many tensors are compared at least, and what compares them.
macro_rules! parity {
    ($network:ident, $folder:literal, $at_least:literal, $run:path) => {
        mod $network {
            use super::*;

            #[test]
            fn own() {
                check($folder, $at_least, $run, Kernels::Own, DType::F32);
            }

            #[test]
            fn generic() {
                check($folder, $at_least, $run, Kernels::Generic, DType::F32);
            }

            #[test]
            fn generic_bf16() {
                check($folder, $at_least, $run, Kernels::Generic, DType::BF16);
            }

            #[test]
            fn generic_f16() {
                check($folder, $at_least, $run, Kernels::Generic, DType::F16);
            }
        }
    };
}

parity!(text_encoder, "t5", 6, t5::run);
parity!(semantic_encoder, "dinov2", 9, dinov2::run);
parity!(content_encoder, "flux-vae", 10, flux_vae::run);
parity!(visual_tokenizer, "bsq-tiny", 9, bsq::run);
parity!(visual_tokenizer_with_a_deeper_decoder, "bsq-deep", 9, bsq::run);
parity!(transformer, "echogen-tiny", 100, echogen::run);
parity!(detector, "grounding-dino", 51, grounding_dino::run);
parity!(namer, "qwen2.5-vl", 22, qwen2_5_vl::run);
parity!(masker, "sam", 7, sam::run);

#[test]
fn preprocess() {
    check("preprocess", 42, preprocess::run, Kernels::Own, DType::F32);
}

/// Compares a fixture with its weights in `dtype`, computed in `computed`.
fn reduced(
    name: &str,
    network: Network,
    dtype: WeightType,
    computed: DType,
    run: Run,
) -> anyhow::Result<Vec<Comparison>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    let folder = tempfile::tempdir()?;
    for file in ["io.safetensors", "config.json", "reduced.json"] {
        fs::copy(source.join(file), folder.path().join(file))?;
    }
    let form = |name: &str, shape: &[usize]| weight_type(network, name, shape, dtype).map_or(Form::AsStored, Form::of);
    let checkpoint = Checkpoint::open(&source.join("model.safetensors"))?;
    checkpoint.convert_each(&folder.path().join("model.safetensors"), false, &form, &mut |_, _| {})?;
    run(folder.path(), &Setup { device: Device::Cpu, dtype: computed })
}

/// The largest root-mean-square error of the tensors whose name contains `part`, and how many there are.
fn worst(comparisons: &[Comparison], part: &str) -> (f64, usize) {
    let found: Vec<_> = comparisons.iter().filter(|comparison| comparison.tensor.contains(part)).collect();
    (found.iter().map(|comparison| comparison.rms_rel).fold(0.0, f64::max), found.len())
}

/// Most rows of the fixtures do not divide into blocks, and are in bf16. Bounds are twice what was measured.
#[test]
fn the_error_of_8_bit_weights_is_known() -> anyhow::Result<()> {
    let text = reduced("t5", Network::TextEncoder, WeightType::Q8_0, DType::F32, t5::run)?;
    let (error, count) = worst(&text, "out.");
    assert!(count >= 3 && error > 1e-4 && error < 0.02, "text encoder: {error}");
    let transformer = reduced("echogen-tiny", Network::Transformer, WeightType::Q8_0, DType::F32, echogen::run)?;
    let (error, count) = worst(&transformer, ".tf.");
    assert!(count >= 3 && error > 1e-4 && error < 0.006, "transformer: {error}");
    Ok(())
}

/// In bf16 the fixtures' own yardsticks hold as if the weights were in float32.
#[test]
fn weights_in_bf16_are_within_the_yardstick() -> anyhow::Result<()> {
    for (name, network, run) in
        [("t5", Network::TextEncoder, t5::run as Run), ("echogen-tiny", Network::Transformer, echogen::run)]
    {
        let comparisons = reduced(name, network, WeightType::Bf16, DType::BF16, run)?;
        let past: Vec<_> = comparisons.iter().filter(|comparison| comparison.severity() > 1.0).collect();
        assert!(comparisons.len() >= 6 && past.is_empty(), "{name}: {past:?}");
    }
    Ok(())
}
