//! See `targets/task.rs`.
#![no_main]

#[path = "../targets/task.rs"]
mod task;
#[path = "../targets/message.rs"]
mod message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| task::run(data));
