#!/usr/bin/env python3
"""Submits the jobs of a file to EchoGen and waits until all have ended.

    pip install -r requirements.txt
    python submit.py ../jobs.jsonl --url amqp://guest:guest@localhost:5672/%2f

No code of EchoGen is needed: a job is one JSON message to an exchange, and its end is one JSON message to the reply queue.
A subject given as a file is put into the job, since the workers may run on other machines. A job with a "tenant" goes to
its tenant's partition of the lane, so that tenants do not wait for each other. The exit code is 0 if every job completed,
else 1.
"""

import argparse
import base64
import json
import mimetypes
import pathlib
import sys
import uuid
import zlib

import pika


def with_picture(job, folder):
    """Puts a subject that is a local file into the job itself."""
    image = job.get("subject", {}).get("image", "")
    if image and "://" not in image and not image.startswith("data:"):
        path = folder / image
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        picture = base64.b64encode(path.read_bytes()).decode()
        job["subject"]["image"] = f"data:{kind};base64,{picture}"
    return job


def jobs_of(path):
    """One job for each line that is not empty."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip():
                yield with_picture(json.loads(line), path.parent)


def routing_key(job, partitions):
    """The lane, and the partition of the job's tenant: a tenant's jobs wait for those of its own partition only."""
    lane, tenant = job.get("lane", "standard"), job.get("tenant")
    return f"{lane}.{zlib.crc32(tenant.encode()) % partitions}" if tenant else lane


def submit(channel, exchange, replies, job, partitions):
    """Publishes one job and returns its correlation id."""
    correlation_id = job.get("id") or str(uuid.uuid4())
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        message_id=correlation_id,
        reply_to=replies,
        correlation_id=correlation_id,
    )
    # In confirm mode this returns when the broker has stored the job. A lane or partition that does not exist raises
    # UnroutableError, a full one NackError.
    key = routing_key(job, partitions)
    channel.basic_publish(exchange, key, json.dumps(job).encode(), properties, mandatory=True)
    return correlation_id


def wait(channel, replies, ids, seconds):
    """Prints each job's end; returns whether all completed."""
    waiting, good = set(ids), True
    for _, properties, body in channel.consume(replies, auto_ack=True, inactivity_timeout=seconds):
        if properties is None:
            print(f"no reply for {seconds} seconds; still waiting for {sorted(waiting)}", file=sys.stderr)
            return False
        event = json.loads(body)
        # Replies are delivered at least once, so a second one is possible.
        if properties.correlation_id in waiting:
            waiting.remove(properties.correlation_id)
            end = event["type"].rsplit(".", 1)[-1]
            good = good and end == "completed"
            why = (event["data"].get("error") or {}).get("message", "")
            print(event["subject"], end, why, flush=True)
        if not waiting:
            return good
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jobs", type=pathlib.Path, help="a file with one JSON job a line")
    parser.add_argument("--url", default="amqp://guest:guest@localhost:5672/%2f")
    parser.add_argument("--prefix", default="echogen", help="the installation's prefix")
    parser.add_argument("--partitions", type=int, default=8, help="the installation's setting broker.partitions")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds without any reply before giving up")
    arguments = parser.parse_args()
    with pika.BlockingConnection(pika.URLParameters(arguments.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        replies = channel.queue_declare("", exclusive=True).method.queue
        exchange = f"{arguments.prefix}.jobs"
        ids = [submit(channel, exchange, replies, job, arguments.partitions) for job in jobs_of(arguments.jobs)]
        print(f"{len(ids)} jobs submitted", flush=True)
        return 0 if not ids or wait(channel, replies, ids, arguments.timeout) else 1


if __name__ == "__main__":
    sys.exit(main())
