//! See `targets/pictures.rs`.
#![no_main]

#[path = "../targets/pictures.rs"]
mod pictures;

libfuzzer_sys::fuzz_target!(|data: &[u8]| pictures::run(data));
