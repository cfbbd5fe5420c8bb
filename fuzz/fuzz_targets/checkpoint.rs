//! See `targets/checkpoint.rs`.
#![no_main]

#[path = "../targets/checkpoint.rs"]
mod checkpoint;
#[path = "../targets/message.rs"]
mod message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| checkpoint::run(data));
