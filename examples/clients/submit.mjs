#!/usr/bin/env node
// Submits the jobs of a file to EchoGen and waits until all have ended.
//
//     npm install
//     node submit.mjs ../jobs.jsonl amqp://guest:guest@localhost:5672/%2f
//
// Nothing of EchoGen is needed here: a job is one JSON message to an exchange, and its end comes back as one JSON
// message. A subject given as a file is sent along inside the job, since the workers may run on other machines. The
// exit code is 0 if every job completed, 1 if one did not. A third argument is the installation's prefix.

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { dirname, extname, resolve } from "node:path";
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

/** Publishes one job; resolves to the mark by which its answer is known, once the broker has the job on disk. */
function submit(channel, exchange, answers, job) {
  const mark = job.id ?? randomUUID();
  const options = {
    contentType: "application/json",
    persistent: true,
    mandatory: true,
    messageId: mark,
    replyTo: answers,
    correlationId: mark,
  };
  const body = Buffer.from(JSON.stringify(job));
  return new Promise((taken, refused) => {
    // A full lane is refused here; a lane that does not exist comes back as a "return" event.
    const confirmed = (error) => (error ? refused(new Error(`the lane is full: ${error.message}`)) : taken(mark));
    channel.publish(exchange, job.lane ?? "standard", body, options, confirmed);
  });
}

/** Prints each job's end; resolves to whether all completed. */
function wait(channel, answers, marks) {
  const waiting = new Set(marks);
  let good = true;
  return new Promise((ended, failed) => {
    const answered = (message) => {
      if (!message) return failed(new Error("the broker has ended the wait"));
      const event = JSON.parse(message.content.toString());
      // Answers come at least once, so a second one is possible.
      if (waiting.delete(message.properties.correlationId)) {
        const end = event.type.split(".").pop();
        good &&= end === "completed";
        console.log(event.subject, end, event.data.error?.message ?? "");
      }
      if (waiting.size === 0) ended(good);
    };
    channel.consume(answers, answered, { noAck: true }).catch(failed);
  });
}

async function main([jobs, url = "amqp://guest:guest@localhost:5672/%2f", prefix = "echogen"]) {
  if (!jobs) throw new Error("usage: submit.mjs JOBS.jsonl [URL] [PREFIX]");
  const connection = await amqp.connect(url);
  const channel = await connection.createConfirmChannel();
  channel.on("return", (message) => {
    console.error(`there is no lane ${message.fields.routingKey}`);
    process.exit(1);
  });
  const { queue: answers } = await channel.assertQueue("", { exclusive: true });
  const lines = (await readFile(jobs, "utf8")).split("\n").filter((line) => line.trim());
  const marks = [];
  for (const line of lines) {
    const job = await withPicture(JSON.parse(line), dirname(jobs));
    marks.push(submit(channel, `${prefix}.jobs`, answers, job));
  }
  const good = wait(channel, answers, await Promise.all(marks));
  console.log(`${marks.length} jobs submitted`);
  const completed = marks.length === 0 || (await good);
  await connection.close();
  return completed ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
