//! Whole-system tests.

mod architecture;
mod bad_input;
mod batch;
mod generate;
mod program;
