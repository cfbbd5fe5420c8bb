# shellcheck shell=sh
# Where the checks and the test of the image keep their tools, and how they find Prometheus and Alertmanager. Their scripts
# read this file with `.`, in the repository's root.
#
# Tools come from PyPI into virtual environments below target/; Prometheus and Alertmanager with their tools come from Debian's
# packages, which are unpacked there and not installed. Elsewhere, set PROMTOOL, PROMETHEUS, AMTOOL and ALERTMANAGER to the
# paths of the four programs.
set -eu
root="$PWD"
tools="${CARGO_TARGET_DIR:-target}/deploy"
mkdir -p "$tools"
tools="$(cd "$tools" && pwd)"

python="${PYTHON:-python3}"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or later is needed" >&2; exit 2; }

# environment NAME REQUIREMENTS: a virtual environment with these packages.
environment() {
    cmp -s "$2" "$tools/$1.installed.txt" && return
    rm -rf "${tools:?}/$1" "$tools/$1.installed.txt"
    "$python" -m venv "$tools/$1"
    "$tools/$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
    cp "$2" "$tools/$1.installed.txt"
}

# Unpacks Debian's package: installing it would start a service.
unpack() {
    command -v apt-get >/dev/null || { echo "set $2: there is no apt-get to fetch Debian's package $1 with" >&2; exit 2; }
    rm -rf "$tools/download"
    mkdir -p "$tools/download" "$tools/prometheus"
    cd "$tools/download"
    if ! apt-get download -qq "$1"; then
        as_root=""
        [ "$(id -u)" -eq 0 ] || as_root="sudo"
        $as_root apt-get update -q
        apt-get download -qq "$1"
    fi
    dpkg-deb --extract "$1"_*.deb "$tools/prometheus"
    cd "$root"
    rm -rf "$tools/download"
}

# find_program VARIABLE PACKAGE PROGRAM: sets the variable to a program, unless it is set, and unpacks its package if need be.
find_program() {
    eval "given=\${$1:-}"
    # shellcheck disable=SC2154 # the line above sets it
    [ -n "$given" ] || given="$(command -v "$3" || true)"
    if [ -z "$given" ]; then
        [ -x "$tools/prometheus/usr/bin/$3" ] || unpack "$2" "$1"
        given="$tools/prometheus/usr/bin/$3"
    fi
    export "$1=$given"
}

# Sets the four variables.
find_programs() {
    find_program PROMTOOL prometheus promtool
    find_program PROMETHEUS prometheus prometheus
    find_program AMTOOL prometheus-alertmanager amtool
    find_program ALERTMANAGER prometheus-alertmanager prometheus-alertmanager
    # Debian's reads its templates from /usr/share only. It gets a view of the files in which the unpacked ones lie there.
    case "$ALERTMANAGER" in "$tools"/*)
        flags="--mount"
        [ "$(id -u)" -eq 0 ] || flags="$flags --map-root-user"
        cat >"$tools/alertmanager" <<END
#!/bin/sh
exec unshare $flags sh -c 'mount --bind "\$0" /usr/share && exec "\$@"' "$tools/prometheus/usr/share" "$ALERTMANAGER" "\$@"
END
        chmod +x "$tools/alertmanager"
        ALERTMANAGER="$tools/alertmanager"
        ;;
    esac
}
