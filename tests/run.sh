#!/bin/sh
# Passes all tests: installs what a fresh Debian machine lacks, then runs them.
set -eu
cd "$(dirname "$0")/.."
sh deploy/setup-debian.sh tests
# All of it also after a failure: one run tells every one.
exec cargo test --workspace --release --locked --no-fail-fast
