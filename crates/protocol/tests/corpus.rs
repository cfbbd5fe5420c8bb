//! The committed inputs of the fuzz targets, as an ordinary test.

#[path = "../../../fuzz/targets/addresses.rs"]
mod addresses;
#[path = "../../../fuzz/targets/corpus.rs"]
mod corpus;
#[path = "../../../fuzz/targets/headers.rs"]
mod headers;
#[path = "../../../fuzz/targets/job.rs"]
mod job;
#[path = "../../../fuzz/targets/message.rs"]
mod message;
#[path = "../../../fuzz/targets/task.rs"]
mod task;

#[test]
fn the_inputs_of_every_target_are_answered() {
    assert!(corpus::each("job", job::run) > 3);
    assert!(corpus::each("task", task::run) > 3);
    assert!(corpus::each("headers", headers::run) > 3);
    assert!(corpus::each("addresses", addresses::run) > 3);
}
