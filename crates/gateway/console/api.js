// The HTTP API as the console uses it. The session is a cookie that no script can read.

import { failed } from "./dom.js";

export const ENDED = "completed failed cancelled expired".split(" ");

const KINDS = [..."snapshot accepted segmented encoded sampling preview retrying parked".split(" "), ...ENDED];

/** One request. An answer that is an error is thrown: `status`, `title`, `detail`, `errors` (RFC 9457). */
export async function call(method, path, { json, body = json && JSON.stringify(json), headers, signal } = {}) {
  const type = json && { "content-type": "application/json" };
  const response = await fetch(path, { method, signal, body, headers: { ...type, ...headers } }).catch((error) => {
    throw error.name === "AbortError" ? error : { title: "The gateway does not answer" };
  });
  const answer = response.headers.get("content-type")?.includes("json") ? await response.json() : {};
  if (response.ok) return answer;
  if (response.status === 401) dispatchEvent(new Event("signed-out"));
  const wait = response.headers.get("retry-after");
  if (wait) answer.detail = `${answer.detail ?? ""} Try again in ${wait} s.`;
  throw { title: `The server answered ${response.status}`, ...answer, status: response.status };
}

export const jobPath = (id, rest = "") => `/v1/jobs/${encodeURIComponent(id)}${rest}`;

/** Puts an event's content, or the whole job anew, into a job. */
export function apply(job, data) {
  if (data.id) {
    for (const name of Object.keys(job)) if (name !== "request") delete job[name];
    return Object.assign(job, data);
  }
  const { status = job.status, stage, progress, message, preview } = data;
  Object.assign(job, { status, stage, progress, message, queue: status === "queued" ? job.queue : null });
  if (preview) job.previews = [...(job.previews ?? []).filter((one) => one.image !== preview.image), preview];
  return job;
}

/** A visit to a page: what it has begun ends when the page is left. */
export class Visit extends AbortController {
  /** A GET whose query leaves out what is empty. */
  get = (path, query = {}) => {
    const given = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
    return call("GET", given.size ? `${path}?${given}` : path, { signal: this.signal });
  };

  /** Calls `work` now and every `millis` while the page is visible. */
  repeat = async (millis, work) => {
    let broken;
    for (; !this.signal.aborted; await new Promise((resolve) => setTimeout(resolve, millis))) {
      const error = document.hidden ? broken : await work().then(() => null, (reason) => reason);
      if (error !== broken) failed(error);
      broken = error;
    }
  };

  /** Listens to a stream until the returned function is called. Connections begin with a snapshot, so nothing is missed. */
  listen = (path, heard, linked = () => {}) => {
    let source, timer, wait = 1000;
    const open = () => {
      source = new EventSource(path);
      source.onopen = () => linked(true);
      for (const kind of KINDS) {
        source.addEventListener(kind, ({ data }) => {
          wait = 1000;
          heard(JSON.parse(data));
        });
      }
      source.onerror = () => {
        linked(false);
        // The browser itself reconnects after a broken connection, but not after an error.
        if (source.readyState !== EventSource.CLOSED) return;
        timer = setTimeout(open, wait * (1 + Math.random()));
        wait = Math.min(wait * 2, 15_000);
        this.get("/v1/session").catch(() => {});
      };
    };
    const close = () => {
      clearTimeout(timer);
      source.close();
    };
    open();
    this.signal.addEventListener("abort", close);
    return close;
  };
}
