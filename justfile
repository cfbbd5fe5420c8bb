# Recipes; the test command itself is tests/run.sh.

# Lists the recipes.
default:
    @just --list

# Makes the example pictures.
example:
    ./examples/run.sh

# Passes all tests.
test:
    ./tests/run.sh

# What a change has to pass.
check:
    .ci/run

# Compares the networks with the shipped reference numbers.
parity:
    cargo run --release --locked -p echogen-models --example parity -- tests/fixtures/*/
    cargo run --release --locked -p echogen-eval --example parity -- tests/fixtures/clip tests/fixtures/dino

# Writes docs/metrics.md anew from the list of metrics.
metrics-page:
    cargo run --quiet --release --locked -p echogen-telemetry --example metrics_page > docs/metrics.md

# Licences, advisories, duplicates, one TLS stack (needs cargo-deny).
deny:
    cargo deny --all-features check

# Times the heavy networks at their published sizes.
bench:
    cargo bench --locked -p echogen-models

# Breaks everything in turn, under load, and counts.
chaos:
    cargo run --release --locked -p echogen-tests --bin chaos

# Jobs a second through real servers, beside a minimal client.
bench-pipeline:
    cargo run --release --locked -p echogen-tests --bin bench-pipeline

# Checks images, compose files, alerts, dashboards, the chart and the dependencies; --update writes what is generated.
check-deploy *ARGUMENTS:
    deploy/check.sh {{ARGUMENTS}}
