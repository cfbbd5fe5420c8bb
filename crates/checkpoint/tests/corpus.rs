//! The committed inputs of the fuzz targets, as an ordinary test.

#[path = "../../../fuzz/targets/checkpoint.rs"]
mod checkpoint;
#[path = "../../../fuzz/targets/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/targets/manifest.rs"]
mod manifest;
#[path = "../../../fuzz/targets/message.rs"]
mod message;

#[test]
fn the_inputs_of_every_target_are_answered() {
    assert!(corpus::each("checkpoint", checkpoint::run) > 3);
    assert!(corpus::each("manifest", manifest::run) > 3);
}
