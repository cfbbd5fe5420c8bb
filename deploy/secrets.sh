#!/bin/sh
# Writes the secrets of compose.yaml to `.env` beside it, each of them new. A file that exists is kept as it is.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "deploy/.env exists, and is left as it is" >&2
    exit 0
fi

# random BYTES: that many random bytes in base64 for addresses, without padding.
random() {
    head -c "$1" /dev/urandom | base64 | tr -d '=\n' | tr '/+' '_-'
}

# The public part of a key: 8 letters and digits.
key_id() {
    head -c 256 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' | head -c 8
}

umask 077
while IFS= read -r line; do
    case "$line" in
        *_PASSWORD= | S3_SECRET_ACCESS_KEY= | ECHOGEN_GATEWAY_SEALING_SECRET=) echo "$line$(random 32)" ;;
        ECHOGEN_GATEWAY_KEY=) echo "${line}eg_$(key_id)_$(random 32)" ;;
        ECHOGEN_CALLBACKS_SECRET=) echo "${line}whsec_$(head -c 32 /dev/urandom | base64)" ;;
        *) echo "$line" ;;
    esac
done <.env.example >.env.new
# All of it or nothing, even if this is interrupted.
mv .env.new .env
echo "wrote deploy/.env; the key of the HTTP API and of the console:"
sed -n 's/^ECHOGEN_GATEWAY_KEY=//p' .env
