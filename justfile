# Recipes; each is a plain command. The test command itself is tests/run.sh.

# Lists the recipes.
default:
    @just --list

# Makes the example pictures.
example:
    ./examples/run.sh

# Checks one crate: formatting, lints, unit tests. `just fast worker`.
fast CRATE:
    cargo fmt --package echogen-{{CRATE}} -- --check
    cargo clippy --release --locked --package echogen-{{CRATE}} --all-targets -- -D warnings
    cargo test --release --locked --package echogen-{{CRATE}} --lib

# Runs all tests.
test:
    ./tests/run.sh

# Runs everything that a change must pass.
check:
    .ci/run

# Builds the documentation site and checks its links.
docs:
    docs/build.sh

# Compares the networks with the reference numbers.
parity:
    cargo run --release --locked -p echogen-models --example parity -- tests/fixtures/*/
    cargo run --release --locked -p echogen-models --example parity -- --kernels generic --dtype bf16 tests/fixtures/*/
    cargo run --release --locked -p echogen-eval --example judge_parity -- tests/fixtures/clip tests/fixtures/dino

# Writes docs/metrics.md from the list of metrics.
metrics-page:
    cargo run --quiet --release --locked -p echogen-telemetry --example metrics_page > docs/metrics.md

# Checks licences, advisories, duplicate versions, the TLS stack (needs cargo-deny).
deny:
    cargo deny --all-features check

# Times the heavy networks at their published sizes.
bench:
    cargo bench --locked -p echogen-models

# Stops every role and server in turn, under load, and counts results.
chaos:
    cargo run --release --locked -p echogen-tests --bin chaos

# Runs contract suites and chaos on newer servers than Debian's, and on other S3 servers; as root.
newer-servers *ARGUMENTS:
    tests/newer-servers.sh {{ARGUMENTS}}

# Measures jobs per second on real servers, beside a minimal client.
bench-pipeline:
    cargo run --release --locked -p echogen-tests --bin bench-pipeline

# Measures the goodput when more is asked for than there is capacity.
bench-overload:
    cargo run --release --locked -p echogen-tests --bin bench-overload

# Measures how long a small interactive job waits amid large batches.
bench-turns:
    cargo run --release --locked -p echogen-tests --bin bench-turns

# Measures `batch` and `submit --batch` on 100,000 lines: speed, resuming after SIGKILL, memory.
bench-batch *ARGUMENTS:
    cargo run --release --locked -p echogen-tests --bin bench-batch -- {{ARGUMENTS}}

# Measures what the gateway costs: jobs per second over HTTP and AMQP, latency, memory.
bench-gateway *ARGUMENTS:
    cargo run --release --locked -p echogen-tests --bin bench-gateway -- {{ARGUMENTS}}

# Sends generated requests to a gateway and holds the answers against its OpenAPI document.
schemathesis:
    cargo build --release --locked -p echogen-tests --bin echogen-under-test
    tests/schemathesis.sh

# Checks images, compose files, alerts, dashboards, the chart and the dependencies; --update writes what is generated.
check-deploy *ARGUMENTS:
    deploy/check.sh {{ARGUMENTS}}

# Runs the CPU image with real servers and monitoring while one thing after another breaks; as root.
image-test *ARGUMENTS:
    deploy/image-test.sh {{ARGUMENTS}}
