//! See `targets/addresses.rs`.
#![no_main]

#[path = "../targets/addresses.rs"]
mod addresses;
#[path = "../targets/message.rs"]
mod message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| addresses::run(data));
