#!/bin/sh
# Passes all tests: installs what a fresh Debian machine lacks, then runs them.
set -eu
cd "$(dirname "$0")/.."
sh deploy/setup-debian.sh tests
exec cargo test --workspace --release --locked
