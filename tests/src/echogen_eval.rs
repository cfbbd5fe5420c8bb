//! The `echogen-eval` program once more, so that Cargo builds it for these tests and tells them where it is.

fn main() -> std::process::ExitCode {
    echogen_eval::main()
}
