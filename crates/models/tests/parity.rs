//! The parity example's comparisons as tests over the shipped fixtures.

#[path = "../examples/parity/bsq.rs"]
mod bsq;
#[path = "../examples/parity/compare.rs"]
mod compare;
#[path = "../examples/parity/flux_vae.rs"]
mod flux_vae;

use std::path::Path;

use compare::Comparison;

/// Largest allowed error, relative to the largest magnitude of the expected tensor.
const TOLERANCE: f64 = 1e-4;

/// Runs a network's comparisons on a shipped fixture folder.
fn check(name: &str, run: impl Fn(&Path) -> anyhow::Result<Vec<Comparison>>) -> anyhow::Result<()> {
    let comparisons = run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name))?;
    assert!(!comparisons.is_empty());
    for comparison in comparisons {
        assert!(comparison.relative_error <= TOLERANCE, "{comparison}");
    }
    Ok(())
}

#[test]
fn flux_vae_meets_the_reference_in_both_layouts() -> anyhow::Result<()> {
    check("flux-vae", flux_vae::run)
}

#[test]
fn visual_tokenizer_meets_the_reference() -> anyhow::Result<()> {
    check("bsq-tiny", bsq::run)
}
