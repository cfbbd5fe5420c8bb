//! See `targets/task.rs`.
#![no_main]

#[path = "../targets/message.rs"]
mod message;
#[path = "../targets/task.rs"]
mod task;

libfuzzer_sys::fuzz_target!(|data: &[u8]| task::run(data));
