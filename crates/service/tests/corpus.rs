//! The committed inputs of the fuzz targets, as an ordinary test.

#[path = "../../../fuzz/targets/configuration.rs"]
mod configuration;
#[path = "../../../fuzz/targets/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/targets/message.rs"]
mod message;

#[test]
fn the_inputs_of_every_target_are_answered() {
    assert!(corpus::each("configuration", configuration::run) > 3);
}
