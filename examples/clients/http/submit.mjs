#!/usr/bin/env node
// Sends a picture and a prompt to EchoGen over HTTP, watches, and saves previews and pictures.
//
//     KEY=eg_... node submit.mjs mug.png "a mug on a beach" --url http://127.0.0.1:8080 --out out --order order-1
//
// No package is needed (Node.js 20). A request that breaks off, or that is refused for now (429, 503), is sent again: the
// order's name is the Idempotency-Key, so it stays one job, also if this program is started again. The exit code is 0 if the
// job completed, else 1.
import { randomUUID } from "node:crypto";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

const ENDS = ["completed", "failed", "cancelled", "expired"];

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    url: { type: "string", default: "http://127.0.0.1:8080" },
    out: { type: "string", default: "out" },
    order: { type: "string", default: randomUUID() },
    pictures: { type: "string", default: "1" },
    patience: { type: "string", default: "300" },
  },
});
const [picture, prompt] = positionals;
if (!prompt) throw new Error("usage: submit.mjs PICTURE PROMPT [--url URL] [--out FOLDER] [--order NAME] [--pictures N]");

// Sends a request, again and again while that makes sense; returns what `read` makes of the response.
async function request(method, path, { body, headers = {}, read }) {
  const deadline = Date.now() + Number(options.patience) * 1000;
  for (;;) {
    let wait = 1;
    try {
      // A picture is fetched from the store by a redirect. The key is not for the store, and fetch does not send it there.
      const authorization = `Bearer ${process.env.KEY}`;
      const response = await fetch(new URL(path, options.url), { method, body, headers: { authorization, ...headers } });
      if (response.ok) return await read(response);
      const text = await response.text();
      if (![429, 503].includes(response.status)) throw Object.assign(new Error(`${response.status} ${text}`), { final: true });
      wait = Number(response.headers.get("retry-after") ?? 1);
    } catch (error) {
      if (error.final || Date.now() > deadline) throw new Error(`${method} ${path}: ${error.cause ?? error.message}`);
    }
    if (Date.now() > deadline) throw new Error(`${method} ${path} is refused for too long`);
    await sleep(wait * 1000);
  }
}

const json = (response) => response.json();
const bytes = async (response) => Buffer.from(await response.arrayBuffer());

// Names and data of a job's events. After a break it connects again, and a snapshot of the job comes first.
async function* events(path) {
  for (;;) {
    const stream = await request("GET", path, { read: (response) => response.body });
    let text = "";
    const decoder = new TextDecoder();
    try {
      for await (const piece of stream) {
        text += decoder.decode(piece, { stream: true });
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const fields = block.split("\n").map((line) => line.split(/: (.*)/s));
          const name = fields.find(([field]) => field === "event")?.[1];
          const data = fields.filter(([field]) => field === "data").map(([, value]) => value);
          if (data.length) yield [name, JSON.parse(data.join("\n"))];
        }
      }
    } catch (error) {
      if (error instanceof SyntaxError) throw error;
    }
    await sleep(1000);
  }
}

// Follows a job until its end, and saves its previews; returns the job.
async function untilEnd(job) {
  for await (const [name, data] of events(job.links.events)) {
    // The first event after a connection, and the last one of the job, are the whole job.
    if (name === "snapshot" || ENDS.includes(name)) {
      console.log(data.status);
      for (const preview of data.previews ?? []) await savePreview(preview);
      if ([...ENDS, "parked"].includes(data.status)) return data;
    } else if (name === "preview") {
      await savePreview(data.preview);
    } else if (name === "sampling" && data.progress) {
      console.log(`scale ${data.progress.scale} of ${data.progress.scales}`);
    }
  }
}

const savePreview = ({ image, scale, url }) => save(`preview-${image}-${scale}.jpg`, url);

async function save(name, url) {
  const path = join(options.out, name);
  await writeFile(path, await request("GET", url, { read: bytes }));
  console.log(path);
}

await mkdir(options.out, { recursive: true });
const headers = { "content-type": "image/png" };
const stored = await request("POST", "/v1/images", { body: await readFile(picture), headers, read: json });
const seeds = [...Array(Number(options.pictures)).keys()];
const sent = await request("POST", "/v1/jobs", {
  body: JSON.stringify({ subject: { image: stored.image }, prompt, seeds, previews: 4 }),
  headers: { "content-type": "application/json", "idempotency-key": options.order },
  read: json,
});
console.log(sent.id);

const job = await untilEnd(sent);
for (const [number, image] of job.images.entries()) {
  await save(`picture-${number}.${image.content_type.split("/")[1]}`, image.url);
}
if (job.status !== "completed") console.error(job.error?.message ?? job.status);
process.exitCode = job.status === "completed" ? 0 : 1;
