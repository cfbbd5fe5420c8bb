//! The `echogen-eval` program. All code is in the library, so that the whole-system tests can call it.

fn main() -> std::process::ExitCode {
    echogen_eval::main()
}
