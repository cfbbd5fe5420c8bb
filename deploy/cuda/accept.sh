#!/bin/sh
# Acceptance on a machine with a GPU, no network, and minutes of time: one folder with everything, one command, one report.
#
#   deploy/cuda/accept.sh pack FOLDER                    # here: program, mini bundle and reference values, 100 MB
#   deploy/cuda/accept.sh pack FOLDER --libraries        # and the CUDA libraries of the build, 1 GB
#   deploy/cuda/accept.sh pack FOLDER --program FILE     # another program than that of build.sh
#   FOLDER/accept.sh                                     # there: writes FOLDER/report.md
#   FOLDER/accept.sh --device cuda:1 --sizes "tiny 2b"   # `cpu` works too; sizes are tiny, 125m and 2b
#
# The exit code is 0 if all checks passed. docs/gpu.md, in the folder README.md, says what the machine needs.
set -eu
here="$(cd "$(dirname "$0")" && pwd)"

usage() {
    sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
    exit 2
}

pack() {
    [ $# -ge 1 ] || usage
    folder="$1"
    shift
    root="$here/../.."
    target="${CARGO_TARGET_DIR:-$root/target}/cuda"
    program="$target/release/echogen"
    libraries=""
    while [ $# -gt 0 ]; do
        case "$1" in
        --program) [ $# -ge 2 ] || usage; program="$2"; shift 2 ;;
        --libraries) libraries="$target/toolkit/nvidia/cu13/lib"; shift ;;
        *) usage ;;
        esac
    done
    [ -f "$program" ] || { echo "$program is missing; run deploy/cuda/build.sh, or name one with --program" >&2; exit 2; }
    mkdir -p "$folder/bundles" "$folder/fixtures"
    strip -o "$folder/echogen" "$program"
    chmod +x "$folder/echogen"
    cp "$here/accept.sh" "$folder/"
    cp "$root/docs/gpu.md" "$folder/README.md"
    cp -r "$root/bundles/mini" "$folder/bundles/"
    for network in t5 dinov2 flux-vae bsq-tiny bsq-deep echogen-tiny grounding-dino qwen2.5-vl sam; do
        cp -r "$root/tests/fixtures/$network" "$folder/fixtures/"
    done
    if [ -n "$libraries" ]; then
        mkdir -p "$folder/lib"
        for library in libcublas.so.13 libcublasLt.so.13 libcurand.so.10 libnvrtc.so.13; do
            cp "$libraries/$library" "$folder/lib/"
        done
        # NVRTC opens these by name.
        cp "$libraries"/libnvrtc-builtins.so* "$folder/lib/" 2>/dev/null || true
    fi
    du -sh "$folder"
}

run() {
    device=cuda sizes="tiny 125m 2b"
    while [ $# -gt 0 ]; do
        case "$1" in
        --device) [ $# -ge 2 ] || usage; device="$2"; shift 2 ;;
        --sizes) [ $# -ge 2 ] || usage; sizes="$2"; shift 2 ;;
        *) usage ;;
        esac
    done
    cd "$here"
    export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    failed=0
    fixtures="--fixtures fixtures"
    : >report.md
    # Each size in a process of its own, the smallest first: what a larger one breaks takes nothing from the report.
    for size in $sizes; do
        part="report-$size.md"
        rm -f "$part"
        # shellcheck disable=SC2086  # two words, or none
        ./echogen doctor --bundles bundles --device "$device" --size "$size" $fixtures --report "$part" >/dev/null || failed=1
        if [ -f "$part" ]; then
            cat "$part" >>report.md
        else
            printf '# echogen doctor, size %s\n\nThe program ended without a report.\n' "$size" >>report.md
        fi
        echo >>report.md
        # The reference values are the same for each size.
        fixtures=""
    done
    if command -v nvidia-smi >/dev/null; then
        { echo '## nvidia-smi'; echo; echo '```'; nvidia-smi || true; echo '```'; } >>report.md
    fi
    echo "$here/report.md"
    exit "$failed"
}

case "${1:-}" in
pack) shift; pack "$@" ;;
-h | --help) usage ;;
*) [ -x "$here/echogen" ] || usage; run "$@" ;;
esac
