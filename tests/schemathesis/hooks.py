"""Lets every request come from another address, as wrong keys are throttled by address; writes bodies of JSON Lines."""

import json
import secrets

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    # Not from `random`: the generator of cases seeds it anew for each, so that the same addresses would come again.
    case.headers["X-Forwarded-For"] = ".".join(str(1 + secrets.randbelow(254)) for _ in range(4))


@schemathesis.serializer("application/jsonl", "application/x-ndjson")
def lines(context, value):
    if isinstance(value, bytes):
        return value
    documents = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(document) for document in documents).encode()
