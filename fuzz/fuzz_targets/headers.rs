//! See `targets/headers.rs`.
#![no_main]

#[path = "../targets/headers.rs"]
mod headers;

libfuzzer_sys::fuzz_target!(|data: &[u8]| headers::run(data));
