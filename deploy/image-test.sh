#!/bin/sh
# Builds the CPU image and really runs it, while things break; see --help.
set -eu
cd "$(dirname "$0")/.."

usage() {
    cat <<'END'
Usage: deploy/image-test.sh [OPTION...]

Builds the target `cpu` of deploy/Dockerfile with buildah and runs every service of deploy/compose.yaml that uses it: as the
image's user, on a read-only root file system, without capabilities, with passwords that contain every special character.
RabbitMQ, Redis and SeaweedFS are real, and so are Prometheus and Alertmanager, with the configuration of compose.yaml at 30
times its speed. Then one thing after another is broken, and for each it is checked which alerts arrive at which receiver,
that no others do, and that they end. In fair weather nothing may arrive but the watchdog, and no job may be lost.

Exit code 0: all passed; 1: something failed; 2: something that it needs is missing; 3: all passed, and a step was replaced by
another one, which the last lines name.

Options:
  --program FILE   the program, already built [default: cargo builds it, and not the Dockerfile's own build stage]
  --full           the Dockerfile's own build stage compiles the program: a quarter of an hour more
  --bases HOW      `pull`: the base images that the Dockerfile pins; `debootstrap`: the same release of Debian from its mirror.
                   [default: pull, and debootstrap if the registry cannot be reached, with exit code 3]
  --folder DIR     where bases and layers are kept; a later run reuses them [default: target/deploy/image-test]
  --only TEXT      only faults whose names contain this
  --help           this text

It needs root, and in a container one that may mount: docker run --privileged. On Debian it installs what it lacks.
END
}

fail() {
    echo "deploy/image-test.sh: $1" >&2
    exit 2
}

program="" full="" bases="" folder="" only=""
while [ $# -gt 0 ]; do
    case "$1" in
        --program | --bases | --folder | --only)
            [ $# -ge 2 ] || fail "$1 needs a value; --help shows the options"
            case "$1" in
                --program) program="$2" ;;
                --bases) bases="$2" ;;
                --folder) folder="$2" ;;
                --only) only="$2" ;;
            esac
            shift
            ;;
        --full) full=1 ;;
        --help)
            usage
            exit 0
            ;;
        *) fail "there is no option $1; --help shows them" ;;
    esac
    shift
done
case "$bases" in "" | pull | debootstrap) ;; *) fail "--bases $bases: there are pull and debootstrap" ;; esac
[ "$(id -u)" -eq 0 ] || fail "this needs root, for chroot and mount: run it with sudo, or in a container that may mount"
unshare --mount --net --pid --fork true || fail "this container may not make namespaces; docker run --privileged makes one"

sh deploy/setup-debian.sh image-test
# shellcheck source=deploy/tools.sh
. deploy/tools.sh
environment image-test-python deploy/image_test/requirements.txt
find_programs
folder="${folder:-$tools/image-test}"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"

if [ -z "$program" ] && [ -z "$full" ]; then
    cargo build --release --locked --bin echogen
    program="${CARGO_TARGET_DIR:-target}/release/echogen"
fi

# The release of Debian that the Dockerfile pins, from this machine's mirror.
unpack_base() {
    [ -x "$folder/base/bin/sh" ] && return
    # shellcheck disable=SC2016 # apt expands it
    mirror="$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)"
    rm -rf --one-file-system "$folder/base.new"
    mirror="${mirror:-http://deb.debian.org/debian}"
    debootstrap --variant=minbase --include=ca-certificates trixie "$folder/base.new" "$mirror" >"$folder/debootstrap.log" 2>&1 ||
        { tail -n 20 "$folder/debootstrap.log" >&2; fail "debootstrap has failed"; }
    mv "$folder/base.new" "$folder/base"
}

replaced=""
export PYTHONDONTWRITEBYTECODE=1
python="$tools/image-test-python/bin/python"
if [ "$bases" != debootstrap ]; then
    if "$python" deploy/image_test/build.py --folder "$folder/images" --pull ${program:+--program "$program"}; then
        built=1
    elif [ "$bases" = pull ]; then
        exit 1
    else
        replaced="the pinned base images could not be pulled: Debian's trixie by debootstrap took their place"
    fi
fi
if [ -z "${built:-}" ]; then
    [ -n "$program" ] || fail "--full needs the pinned base images: the compiler is in one of them"
    unpack_base
    "$python" deploy/image_test/build.py --folder "$folder/images" --system "$folder/base" --program "$program"
fi

rm -rf "$folder/run"
code=0
unshare --mount --net --pid --ipc --fork --kill-child --mount-proc --propagation private \
    "$python" deploy/image_test --folder "$folder" --weed "$tools/image-test-python/bin/weed" ${only:+--only "$only"} || code=$?
if [ -n "$replaced" ]; then
    echo "REPLACED: $replaced"
    [ "$code" -ne 0 ] || code=3
fi
[ -z "$program" ] || echo "Not tried: compiling in the Dockerfile's build stage; --full does"
exit "$code"
