#!/bin/sh
# Shows EchoGen in the browser: installs what a fresh Debian machine lacks, builds, and prints the console's address and a key.
# Example jobs arrive every few seconds; Ctrl-C ends it. The pictures are in echogen-demo/.
set -eu
cd "$(dirname "$0")/.."
sh deploy/setup-debian.sh
exec cargo run --release --locked --bin echogen -- demo "$@"
