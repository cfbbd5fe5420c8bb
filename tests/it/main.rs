//! Whole-system tests.

mod architecture;
mod examples;
