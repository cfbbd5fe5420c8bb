//! The `echogen` command.

fn main() {}
