//! Builds the `echogen` program in this package too, so that Cargo provides its path to these tests.

fn main() -> std::process::ExitCode {
    echogen_cli::main()
}
