//! Whole-system tests.

mod architecture;
mod bad_input;
mod batch;
mod clients;
mod evaluate;
mod examples;
mod generate;
mod program;
