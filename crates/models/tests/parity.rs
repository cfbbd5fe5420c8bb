//! Runs the comparisons of the example `parity` on the shipped fixtures.

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

use std::path::Path;

use compare::{Comparison, TOLERANCE};

fn check(name: &str, at_least: usize, run: fn(&Path) -> anyhow::Result<Vec<Comparison>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    let comparisons = run(&folder).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    assert!(comparisons.len() >= at_least, "{name}: only {} tensors were compared", comparisons.len());
    for comparison in comparisons {
        assert!(comparison.relative_error <= TOLERANCE, "{comparison}");
    }
}

#[test]
fn t5() {
    check("t5", 6, t5::run);
}

#[test]
fn dinov2() {
    check("dinov2", 9, dinov2::run);
}

#[test]
fn flux_vae() {
    check("flux-vae", 10, flux_vae::run);
}

#[test]
fn visual_tokenizer() {
    check("bsq-tiny", 9, bsq::run);
}

#[test]
fn echogen() {
    check("echogen-tiny", 100, echogen::run);
}

#[test]
fn grounding_dino() {
    check("grounding-dino", 51, grounding_dino::run);
}

#[test]
fn preprocess() {
    check("preprocess", 42, preprocess::run);
}

#[test]
fn qwen2_5_vl() {
    check("qwen2.5-vl", 24, qwen2_5_vl::run);
}

#[test]
fn sam() {
    check("sam", 7, sam::run);
}
