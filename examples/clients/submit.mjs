#!/usr/bin/env node
// Submits the jobs of a file to EchoGen and waits until all have ended.
//
//     npm install
//     node submit.mjs ../jobs.jsonl amqp://guest:guest@localhost:5672/%2f
//
// No code of EchoGen is needed: a job is one JSON message to an exchange, and its end is one JSON message to the reply
// queue. A subject given as a file is put into the job, since the workers may run on other machines. A job with a "tenant"
// goes to its tenant's partition of the lane, so that tenants do not wait for each other. The exit code is 0 if every job
// completed, else 1. A third argument is the installation's prefix, a fourth its setting broker.partitions.

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, extname, resolve } from "node:path";
import { crc32 } from "node:zlib";
import amqp from "amqplib";

const KINDS = { ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp" };

/** Puts a subject that is a local file into the job itself. */
async function withPicture(job, folder) {
  const image = job.subject?.image ?? "";
  if (image && !image.includes("://") && !image.startsWith("data:")) {
    const kind = KINDS[extname(image).toLowerCase()] ?? "application/octet-stream";
    const picture = await readFile(resolve(folder, image));
    job.subject.image = `data:${kind};base64,${picture.toString("base64")}`;
  }
  return job;
}

/** The lane, and the partition of the job's tenant: a tenant's jobs wait for those of its own partition only. */
function routingKey(job, partitions) {
  const lane = job.lane ?? "standard";
  return job.tenant ? `${lane}.${crc32(job.tenant) % partitions}` : lane;
}

/** Publishes one job; resolves to its correlation id once the broker has stored the job. */
function submit(channel, exchange, replies, job, partitions) {
  const correlationId = job.id ?? randomUUID();
  const options = {
    contentType: "application/json",
    persistent: true,
    mandatory: true,
    messageId: correlationId,
    replyTo: replies,
    correlationId,
  };
  const body = Buffer.from(JSON.stringify(job));
  return new Promise((submitted, refused) => {
    // A full lane is a nack; a lane or partition that does not exist leads to a "return" event.
    const confirmed = (error) => (error ? refused(new Error(`the lane is full: ${error.message}`)) : submitted(correlationId));
    channel.publish(exchange, routingKey(job, partitions), body, options, confirmed);
  });
}

/** Prints each job's end; resolves to whether all completed. */
function wait(channel, replies, ids) {
  const waiting = new Set(ids);
  let good = true;
  return new Promise((ended, failed) => {
    const received = (message) => {
      if (!message) return failed(new Error("the broker has ended the wait"));
      const event = JSON.parse(message.content.toString());
      // Replies are delivered at least once, so a second one is possible.
      if (waiting.delete(message.properties.correlationId)) {
        const end = event.type.split(".").pop();
        good &&= end === "completed";
        console.log(event.subject, end, event.data.error?.message ?? "");
      }
      if (waiting.size === 0) ended(good);
    };
    channel.consume(replies, received, { noAck: true }).catch(failed);
  });
}

async function main([jobs, url = "amqp://guest:guest@localhost:5672/%2f", prefix = "echogen", partitions = "8"]) {
  if (!jobs) throw new Error("usage: submit.mjs JOBS.jsonl [URL] [PREFIX] [PARTITIONS]");
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  channel.on("return", (message) => {
    console.error(`there is no lane or partition ${message.fields.routingKey}`);
    process.exit(1);
  });
  const { queue: replies } = await channel.assertQueue("", { exclusive: true });
  const lines = (await readFile(jobs, "utf8")).split("\n").filter((line) => line.trim());
  const ids = [];
  for (const line of lines) {
    const job = await withPicture(JSON.parse(line), dirname(jobs));
    ids.push(submit(channel, `${prefix}.jobs`, replies, job, Number(partitions)));
  }
  const good = wait(channel, replies, await Promise.all(ids));
  console.log(`${ids.length} jobs submitted`);
  const completed = ids.length === 0 || (await good);
  await connection.close();
  return completed ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
