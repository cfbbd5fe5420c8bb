//! Whole-system tests.

mod architecture;
mod bad_input;
mod batch;
mod clients;
mod examples;
mod generate;
mod program;
