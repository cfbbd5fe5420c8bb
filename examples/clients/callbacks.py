#!/usr/bin/env python3
"""A server for EchoGen's callbacks: prints the end of each job.

    export CALLBACK_SECRET=whsec_$(openssl rand -base64 32)
    python callbacks.py --port 8443 --certificate server.pem --key server.key

For each job that names this server as its "callback", one JSON line is printed on standard output. Only the standard
library is needed. Requests are signed according to Standard Webhooks; one with a wrong signature, or older than five
minutes, is refused. EchoGen retries until it receives a status of 200 to 299, so the same event may arrive twice, with
the same id.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_BYTES = 16 * 1024 * 1024
MAX_AGE = 300


def is_genuine(headers, body, secret):
    """Whether the request was signed with the secret, within the last minutes."""
    mark, sent = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not sent.isascii() or not sent.isdigit() or abs(time.time() - int(sent)) > MAX_AGE:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = b"v1," + base64.b64encode(hmac.digest(key, f"{mark}.{sent}.".encode() + body, hashlib.sha256))
    # During a rotation of secrets there are several signatures.
    given = headers.get("webhook-signature", "").encode().split()
    return any(hmac.compare_digest(expected, signature) for signature in given)


class Callbacks(BaseHTTPRequestHandler):
    """Handles requests; `seen` are the ids of earlier events."""

    secret = ""
    seen = set()
    lock = threading.Lock()

    def do_POST(self):
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BYTES:
            return self.answer(413)
        body = self.rfile.read(int(length))
        if not is_genuine(self.headers, body, self.secret):
            return self.answer(401)
        event = json.loads(body)
        # Requests are handled concurrently, each in a thread of its own.
        with self.lock:
            if event["id"] not in self.seen:
                print(json.dumps({"job": event["subject"], "status": event["data"]["status"]}), flush=True)
                self.seen.add(event["id"])
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--port", type=int, default=8443, help="port to listen on; 0 takes a free one")
    arguments.add_argument("--certificate", required=True, help="the server's certificate, a PEM file, not of an authority")
    arguments.add_argument("--key", required=True, help="its key, a PEM file")
    options = arguments.parse_args()
    Callbacks.secret = os.environ.get("CALLBACK_SECRET", "")
    if not Callbacks.secret.startswith("whsec_"):
        sys.exit("error: set CALLBACK_SECRET to what the notifier has as ECHOGEN_CALLBACKS_SECRET, or /v1/callback-secret answers")
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Callbacks)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.certificate, options.key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(f"listening at port {server.server_address[1]}", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
