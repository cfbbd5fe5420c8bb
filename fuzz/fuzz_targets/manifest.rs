//! See `targets/manifest.rs`.
#![no_main]

#[path = "../targets/manifest.rs"]
mod manifest;
#[path = "../targets/message.rs"]
mod message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| manifest::run(data));
