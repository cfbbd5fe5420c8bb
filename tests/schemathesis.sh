#!/bin/sh
# Sends generated requests, valid and invalid ones, to a gateway for two minutes, and holds every answer against its own OpenAPI
# document: no server errors, only statuses, headers, media types and bodies of the document, no answer without a valid key.
#
#     tests/schemathesis.sh [PROGRAM]
#
# PROGRAM is `echogen`, by default the one that the tests have built. SECONDS_TO_RUN sets another time. Needs Python 3.11;
# schemathesis is installed from PyPI, with the hashes in tests/schemathesis/requirements.txt, below target/.
set -eu
cd "$(dirname "$0")/.."
root="$PWD"
target="${CARGO_TARGET_DIR:-target}"
program="$(realpath "${1:-$target/release/echogen-under-test}")"
mkdir -p "$target/schemathesis"
tools="$(realpath "$target/schemathesis")"
wanted=tests/schemathesis/requirements.txt
if ! cmp -s "$wanted" "$tools/installed.txt"; then
    rm -rf "$tools/venv" "$tools/installed.txt"
    "${PYTHON:-python3}" -m venv "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$wanted"
    cp "$wanted" "$tools/installed.txt"
fi

folder="$(mktemp -d)"
gateway=""
finish() {
    # The program saves nothing that is needed.
    [ -z "$gateway" ] || kill "$gateway" 2> /dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
# A proxy that is believed, so that wrong keys, which are throttled by address, come from many; see hooks.py.
# Requests of operators are served at the same address.
"$program" up --gateway 127.0.0.1:0 --gateway-admin-listen 127.0.0.1:0 --store-url "$folder/store" --bundle "$root/bundles/mini" --threads 1 \
    --gateway-proxies 127.0.0.1/32 > "$folder/output" 2> "$folder/log" < /dev/null &
gateway=$!
until grep -q '^key ' "$folder/output"; do
    kill -0 "$gateway" || { cat "$folder/log" >&2; exit 1; }
    sleep 0.2
done
url="$(sed -n 's/^console //p' "$folder/output")"
key="$(sed -n 's/^key //p' "$folder/output")"

cd "$folder"
# Left out: a stream of all jobs never ends by itself, and without redirects a picture is served by the gateway.
export SCHEMATHESIS_HOOKS="$root/tests/schemathesis/hooks.py" PYTHONDONTWRITEBYTECODE=1
"$tools/venv/bin/schemathesis" run "${url}v1/openapi.json" --header "Authorization: Bearer $key" --url "${url%/}" \
    --max-time "${SECONDS_TO_RUN:-120}" --request-timeout 60 --workers 2 --continue-on-failure \
    --exclude-operation-id watch_jobs \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance \
    --checks response_schema_conformance,unsupported_method,ignored_auth,negative_data_rejection
kill -0 "$gateway" || { echo "the program ended" >&2; cat "$folder/log" >&2; exit 1; }
