#!/bin/sh
# Sends a picture and a prompt to EchoGen over HTTP, watches, and saves previews and pictures.
#
#     KEY=eg_... sh submit.sh mug.png "a mug on a beach" http://127.0.0.1:8080 out order-1 [PICTURES]
#
# Needs curl and jq. curl sends a request again that breaks off or is refused for now (429, 503), after the time that
# Retry-After says: the order's name is the Idempotency-Key, so it stays one job, also if this program is started again. The
# exit code is 0 if the job completed, else 1.
set -eu
picture="$1" prompt="$2" url="${3:-http://127.0.0.1:8080}" out="${4:-out}" order="${5:-$(date +%s)-$$}" pictures="${6:-1}"
mkdir -p "$out"
# A file, so that the key is in no list of processes.
secret="$(mktemp)"
trap 'rm -f "$secret"' EXIT
printf 'header = "Authorization: Bearer %s"\n' "$KEY" > "$secret"

# A picture is fetched from the store by a redirect. The key is not for the store, and curl does not send it there.
call() {
    path="$1"
    shift
    curl --config "$secret" --silent --show-error --fail --location --retry 20 --retry-connrefused \
        --retry-max-time 300 "$@" "$url$path"
}

# Saves a picture by its path and its name.
save() {
    call "$1" --output "$out/$2"
    echo "$out/$2"
}

# Reads the events of a job, saves its previews, and writes the job as job.json at its end; fails if the stream ends before.
follow() {
    while IFS= read -r line; do
        data="${line#data: }"
        case "$line" in
        "event: "*) name="${line#event: }" ;;
        "data: "*)
            case "$name" in
            # The first event after a connection, and the last one of the job, are the whole job.
            snapshot | completed | failed | cancelled | expired)
                printf '%s\n' "$data" > "$out/job.json"
                jq -r .status "$out/job.json"
                jq -e '.status != "queued" and .status != "running"' "$out/job.json" > /dev/null && return 0
                ;;
            esac
            printf '%s\n' "$data" |
                jq -r '(.preview // empty, .previews[]?) | "\(.url) preview-\(.image)-\(.scale).jpg"' |
                while read -r path file; do save "$path" "$file"; done
            ;;
        esac
    done
    return 1
}

image="$(call /v1/images --header 'Content-Type: image/png' --data-binary "@$picture" | jq -r .image)"
jq -n --arg image "$image" --arg prompt "$prompt" --argjson pictures "$pictures" \
    '{subject: {image: $image}, prompt: $prompt, seeds: [range($pictures)], previews: 4}' |
    call /v1/jobs --header 'Content-Type: application/json' --header "Idempotency-Key: $order" --data-binary @- \
        > "$out/job.json"
jq -r .id "$out/job.json"

links="$(jq -r '.links | "\(.self) \(.events)"' "$out/job.json")"
# After a break it connects again, and a snapshot of the job comes first.
until call "${links#* }" --no-buffer 2> /dev/null | follow; do
    sleep 1
    call "${links% *}" > /dev/null
done
jq -r '.images | to_entries[] | "\(.key) \(.value.url) \(.value.content_type)"' "$out/job.json" |
    while read -r number path kind; do
        save "$path" "picture-$number.${kind#*/}"
    done
jq -e '.status == "completed" or error(.error.message // .status)' "$out/job.json" > /dev/null
