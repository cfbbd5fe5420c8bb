#!/bin/sh
# Installs the system packages that building needs, and with `tests` those of the tests too, or with `newer-servers` those of
# tests/newer-servers.sh, or with `image-test` those of deploy/image-test.sh, where they are missing.
set -eu
command -v cargo >/dev/null || { echo "EchoGen is built with Rust: install it from https://rustup.rs first" >&2; exit 2; }
packages=""
command -v cc >/dev/null || packages="$packages gcc libc6-dev"
if [ "${1:-}" = tests ]; then
    # The tests start private servers of these.
    [ -d /usr/lib/rabbitmq/lib ] || packages="$packages rabbitmq-server"
    command -v redis-server >/dev/null || packages="$packages redis-server"
    # They also run the example clients in Python, JavaScript and shell.
    python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3 python3-venv"
    command -v npm >/dev/null || packages="$packages nodejs npm"
    command -v curl >/dev/null || packages="$packages curl ca-certificates"
    command -v jq >/dev/null || packages="$packages jq"
    # They open the console in a browser.
    command -v chromedriver >/dev/null || packages="$packages chromium chromium-driver"
fi
if [ "${1:-}" = newer-servers ]; then
    command -v debootstrap >/dev/null || packages="$packages debootstrap"
    python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3 python3-venv"
fi
if [ "${1:-}" = image-test ]; then
    command -v buildah >/dev/null || packages="$packages buildah"
    command -v debootstrap >/dev/null || packages="$packages debootstrap"
    [ -d /usr/lib/rabbitmq/lib ] || packages="$packages rabbitmq-server"
    command -v redis-server >/dev/null || packages="$packages redis-server"
    python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3 python3-venv"
fi
[ -z "$packages" ] && exit 0
as_root=""
[ "$(id -u)" -eq 0 ] || as_root="sudo"
$as_root apt-get update -q
# shellcheck disable=SC2086 # a list of package names
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -q --no-install-recommends $packages
