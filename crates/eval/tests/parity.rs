//! Runs the comparisons of the example `judge_parity` on the shipped fixtures.

#[path = "../examples/judge_parity/clip.rs"]
mod clip;
#[expect(dead_code, reason = "shared with the crate models, whose networks need more of it")]
#[path = "../../models/examples/parity/compare.rs"]
mod compare;
#[path = "../examples/judge_parity/dino.rs"]
mod dino;
#[path = "../examples/judge_parity/pictures.rs"]
mod pictures;

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
fn clip() {
    check("clip", 10, clip::run);
}

#[test]
fn dino() {
    check("dino", 4, dino::run);
}
