//! Whole-system tests.

mod architecture;
mod bad_input;
mod batch;
mod clients;
mod collector;
mod dreambench;
mod evaluate;
mod examples;
mod exposition;
mod generate;
mod program;
mod watched;
