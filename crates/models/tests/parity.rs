//! The parity example's comparisons as tests over the shipped fixtures.

#[path = "../examples/parity/compare.rs"]
mod compare;
