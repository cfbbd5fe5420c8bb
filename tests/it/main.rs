//! Whole-system tests.

mod architecture;
mod bad_input;
mod batch;
mod examples;
mod generate;
mod program;
