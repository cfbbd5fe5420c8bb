//! The `echogen` program. All code is in the library, so that the whole-system tests run the same code.

fn main() -> std::process::ExitCode {
    echogen_cli::main()
}
