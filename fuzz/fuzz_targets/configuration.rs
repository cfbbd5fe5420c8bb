//! See `targets/configuration.rs`.
#![no_main]

#[path = "../targets/configuration.rs"]
mod configuration;
#[path = "../targets/message.rs"]
mod message;

libfuzzer_sys::fuzz_target!(|data: &[u8]| configuration::run(data));
