#!/bin/sh
# Checks everything that deploys and monitors EchoGen: images, compose files, rules, dashboards, the chart, this
# repository's dependencies and workflows. With `--update`, writes the generated files first.
#
# Needs Python 3.11 and, on Debian, nothing else: tools are installed from PyPI into a virtual environment below target/;
# promtool and a private Prometheus come from Debian's package, which is unpacked there and not installed. Elsewhere, set
# PROMTOOL and PROMETHEUS to the paths of the two programs.
set -eu
cd "$(dirname "$0")/.."
root="$PWD"
tools="${CARGO_TARGET_DIR:-target}/deploy"
mkdir -p "$tools"
tools="$(cd "$tools" && pwd)"

python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed" >&2; exit 2; }
if ! cmp -s deploy/requirements.txt "$tools/installed.txt"; then
    rm -rf "$tools/venv" "$tools/installed.txt"
    "$python" -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --requirement deploy/requirements.txt
    cp deploy/requirements.txt "$tools/installed.txt"
fi

# Unpacks Debian's package: installing it would start a service.
unpack_prometheus() {
    command -v apt-get >/dev/null || { echo "set PROMTOOL and PROMETHEUS: there is no apt-get to fetch Debian's package with" >&2; exit 2; }
    rm -rf "$tools/prometheus" "$tools/download"
    mkdir -p "$tools/download"
    cd "$tools/download"
    if ! apt-get download -qq prometheus; then
        as_root=""
        [ "$(id -u)" -eq 0 ] || as_root="sudo"
        $as_root apt-get update -q
        apt-get download -qq prometheus
    fi
    dpkg-deb --extract prometheus_*.deb "$tools/prometheus"
    cd "$root"
    rm -rf "$tools/download"
}

for name in promtool prometheus; do
    variable="$(echo "$name" | tr '[:lower:]' '[:upper:]')"
    eval "given=\${$variable:-}"
    # shellcheck disable=SC2154 # the line above sets it
    [ -n "$given" ] || given="$(command -v "$name" || true)"
    if [ -z "$given" ]; then
        [ -x "$tools/prometheus/usr/bin/$name" ] || unpack_prometheus
        given="$tools/prometheus/usr/bin/$name"
    fi
    export "$variable=$given"
done

export PYTHONDONTWRITEBYTECODE=1
if [ "${1:-}" = --update ]; then
    "$tools/venv/bin/python" deploy/generate.py
    shift
fi
cd deploy
exec "$tools/venv/bin/python" -m pytest --quiet "$@"
