#!/bin/sh
# Serves the HTTP API and the console with all roles in one process: installs what a fresh Debian machine lacks, builds, and
# prints the address and, the first time, a key. The pictures are in out/.
set -eu
cd "$(dirname "$0")/.."
sh deploy/setup-debian.sh
exec cargo run --release --locked --bin echogen -- up --gateway 127.0.0.1:8080 --store out/ "$@"
