//! The `echogen-eval` program; everything is in the library, so that the whole-system tests run the very same.

fn main() -> std::process::ExitCode {
    echogen_eval::main()
}
