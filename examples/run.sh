#!/bin/sh
# Runs the example jobs: installs what a fresh Debian machine lacks, builds, samples, and says where the pictures lie.
set -eu
cd "$(dirname "$0")/.."
sh deploy/setup-debian.sh
exec cargo run --release --locked --bin echogen -- batch examples/jobs.jsonl --out out/ "$@"
