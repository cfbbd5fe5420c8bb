//! Prints `docs/metrics.md`.

fn main() -> std::io::Result<()> {
    std::io::Write::write_all(&mut std::io::stdout(), echogen_telemetry::page().as_bytes())
}
