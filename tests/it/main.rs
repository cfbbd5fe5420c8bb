//! Whole-system tests.

mod architecture;
