#!/usr/bin/env python3
"""Sends a picture and a prompt to EchoGen over HTTP, watches, and saves previews and pictures.

    KEY=eg_... python3 submit.py mug.png "a mug on a beach" --url http://127.0.0.1:8080 --out out --order order-1

Only the standard library is needed. A request that breaks off, or that is refused for now (429, 503), is sent again: the
order's name is the Idempotency-Key, so it stays one job, also if this program is started again. The exit code is 0 if the
job completed, else 1.
"""

import argparse
import http.client
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid

# Seconds without a byte after which a connection is given up; a stream that lives brings a comment every fifteen.
TIMEOUT = 60
ENDS = ("completed", "failed", "cancelled", "expired")


class Client:
    def __init__(self, url, key, patience):
        self.url, self.key, self.patience = url, key, patience

    def open(self, method, path, body=None, headers=()):
        """Opens a request, again and again while that makes sense; returns the response."""
        deadline = time.monotonic() + self.patience
        while True:
            request = urllib.request.Request(urllib.parse.urljoin(self.url, path), body, dict(headers), method=method)
            # A picture is fetched from the store by a redirect. The key is not for the store.
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
            try:
                return urllib.request.urlopen(request, timeout=TIMEOUT)
            except urllib.error.HTTPError as refused:
                if refused.code not in (429, 503) or time.monotonic() > deadline:
                    sys.exit(f"{method} {path}: {refused.code} {refused.read().decode(errors='replace')}")
                wait = float(refused.headers.get("Retry-After", 1))
            except (OSError, http.client.HTTPException) as broken:
                if time.monotonic() > deadline:
                    sys.exit(f"{method} {path}: {broken}")
                wait = 1
            time.sleep(wait)

    def read(self, method, path, body=None, headers=()):
        """The body of an answer, which is asked for again if it breaks off."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                with self.open(method, path, body, headers) as response:
                    return response.read()
            except (OSError, http.client.HTTPException) as broken:
                if time.monotonic() > deadline:
                    sys.exit(f"{method} {path}: {broken}")

    def events(self, path):
        """Names and data of a job's events. After a break it connects again, and a snapshot of the job comes first."""
        while True:
            try:
                with self.open("GET", path) as stream:
                    yield from events_of(stream)
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(1)


def events_of(stream):
    """Splits a stream of server-sent events."""
    name, data = None, []
    for line in stream:
        field, _, value = line.decode().rstrip("\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "" and data:
            yield name, json.loads("\n".join(data))
            name, data = None, []


def save_preview(client, preview, folder):
    path = folder / f"preview-{preview['image']}-{preview['scale']}.jpg"
    path.write_bytes(client.read("GET", preview["url"]))
    print(path, flush=True)


def until_end(client, job, folder):
    """Follows a job until its end, and saves its previews; returns the job."""
    for name, data in client.events(job["links"]["events"]):
        # The first event after a connection, and the last one of the job, are the whole job.
        if name in ("snapshot", *ENDS):
            print(data["status"], flush=True)
            for preview in data.get("previews", []):
                save_preview(client, preview, folder)
            if data["status"] in (*ENDS, "parked"):
                return data
        elif name == "preview":
            save_preview(client, data["preview"], folder)
        elif name == "sampling" and "progress" in data:
            print("scale {scale} of {scales}".format(**data["progress"]), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=pathlib.Path, help="the subject's picture")
    parser.add_argument("prompt", help="the scene")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out"), help="the folder of what is saved")
    parser.add_argument("--order", default=str(uuid.uuid4()), help="names the job: the same order is not run twice")
    parser.add_argument("--pictures", type=int, default=1, help="how many, with the seeds 0, 1, ...")
    parser.add_argument("--patience", type=float, default=300, help="seconds for which a request is sent again")
    arguments = parser.parse_args()
    client = Client(arguments.url, os.environ["KEY"], arguments.patience)
    arguments.out.mkdir(parents=True, exist_ok=True)

    stored = json.loads(client.read("POST", "/v1/images", arguments.picture.read_bytes(), {"Content-Type": "image/png"}))
    seeds = list(range(arguments.pictures))
    job = {"subject": {"image": stored["image"]}, "prompt": arguments.prompt, "seeds": seeds, "previews": 4}
    headers = {"Content-Type": "application/json", "Idempotency-Key": arguments.order}
    job = json.loads(client.read("POST", "/v1/jobs", json.dumps(job).encode(), headers))
    print(job["id"], flush=True)

    job = until_end(client, job, arguments.out)
    for number, image in enumerate(job["images"]):
        path = arguments.out / f"picture-{number}.{image['content_type'].rpartition('/')[2]}"
        path.write_bytes(client.read("GET", image["url"]))
        print(path, flush=True)
    if job["status"] != "completed":
        print((job.get("error") or {}).get("message", job["status"]), file=sys.stderr)
    return 0 if job["status"] == "completed" else 1


if __name__ == "__main__":
    sys.exit(main())
