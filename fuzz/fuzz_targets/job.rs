//! See `targets/job.rs`.
#![no_main]

#[path = "../targets/job.rs"]
mod job;
#[path = "../targets/message.rs"]
mod message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| job::run(data));
