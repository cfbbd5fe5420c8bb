// The HTTP API as the console uses it. The session is a cookie that no script can read.

/** States in which a job has ended. */
export const ENDED = ["completed", "failed", "cancelled", "expired"];

const KINDS = ["snapshot", "accepted", "segmented", "encoded", "sampling", "preview", "retrying", "parked", ...ENDED];

/** An answer that is an error, as RFC 9457 describes it. */
class Problem extends Error {
  constructor(status, body) {
    super(body.title ?? `The server answered ${status}`);
    Object.assign(this, { status, title: this.message, detail: body.detail ?? "", errors: body.errors });
  }
}

/** One request. `json` or `body` is sent; the answer's JSON comes back. */
export async function call(method, path, { json, body = json && JSON.stringify(json), headers, signal } = {}) {
  const type = json && { "content-type": "application/json" };
  const response = await fetch(path, { method, signal, body, headers: { ...type, ...headers } }).catch((error) => {
    throw error.name === "AbortError" ? error : new Problem(0, { title: "The gateway does not answer" });
  });
  const isJson = response.headers.get("content-type")?.includes("json");
  const answer = isJson ? await response.json() : {};
  if (response.ok) return answer;
  if (response.status === 401) dispatchEvent(new Event("signed-out"));
  const wait = response.headers.get("retry-after");
  if (wait) answer.detail = `${answer.detail ?? ""} Try again in ${wait} s.`;
  throw new Problem(response.status, answer);
}

/** The path of a job, or of what belongs to it. */
export const jobPath = (id, rest = "") => `/v1/jobs/${encodeURIComponent(id)}${rest}`;

/** Puts an event's content into the job that it is about. The end event of a job's own stream is the whole job. */
export function apply(job, data) {
  if (data.id) return Object.assign(job, data);
  Object.assign(job, { status: data.status ?? job.status, stage: data.stage, progress: data.progress, message: data.message });
  if (job.status !== "queued") job.queue = null;
  if (data.preview) job.previews = [...(job.previews ?? []).filter((one) => one.image !== data.preview.image), data.preview];
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
    for (; !this.signal.aborted; await new Promise((resolve) => setTimeout(resolve, millis))) {
      if (!document.hidden) await work();
    }
  };

  /**
   * Listens to an event stream until the returned function is called. Each connection begins with a snapshot, so what came
   * while there was none is not missed. `linked` is told when the connection comes or goes.
   */
  listen = (path, heard, linked = () => {}) => {
    let source, timer, wait = 1000;
    const open = () => {
      source = new EventSource(path);
      source.onopen = () => linked(true);
      for (const kind of KINDS) {
        source.addEventListener(kind, (event) => {
          wait = 1000;
          heard(kind, JSON.parse(event.data));
        });
      }
      source.onerror = () => {
        linked(false);
        // The browser itself reconnects after a broken connection, but not after an answer that is an error.
        if (source.readyState !== EventSource.CLOSED) return;
        timer = setTimeout(open, wait * (1 + Math.random()));
        wait = Math.min(wait * 2, 15_000);
        // Shows a session that has ended; of all else the next attempt knows more.
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
