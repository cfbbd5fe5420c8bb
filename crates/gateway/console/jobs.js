// Jobs: the newest first, kept right by one event stream; filter, search, and an exact id at once.

import { ENDED, apply, jobPath } from "./api.js";
import { ago, badge, count, failed, h, select, show } from "./dom.js";
import { rows } from "./rows.js";

const cells = (job) => [
  [badge(job.status), job.status === "running" && job.progress?.scales &&
    h("progress", { max: job.progress.scales, value: job.progress.scale, "aria-label": "Progress" }),
  job.status === "queued" && job.queue && h("span.muted", `${count(job.queue.ahead)} ahead`)],
  h("a", { href: `#/job/${job.id}` }, job.prompt || job.id), h("code", job.id), job.lane, ago(job.created),
];

/** The jobs known so far, in the order of the list. */
class List {
  constructor(visit, filter, changed) {
    Object.assign(this, { visit, filter, changed, jobs: [], byId: new Map(), next: null, isLoading: false, isStale: false });
  }

  add(job, isNew) {
    const known = this.byId.get(job.id);
    if (known) return void apply(known, job);
    this.byId.set(job.id, job);
    this.jobs[isNew ? "unshift" : "push"](job);
  }

  /** Fetches the first page: known jobs are renewed, others come to the top. */
  async refresh() {
    const { data, next } = await this.visit.get("/v1/jobs", { ...this.filter, limit: 100 });
    const isFirst = this.jobs.length === 0;
    if (isFirst) this.next = next;
    for (const job of isFirst ? data : data.reverse()) this.add(job, !isFirst);
    this.changed();
  }

  /** Fetches the page after the last one, unless it is on its way. */
  async more() {
    if (!this.next || this.isLoading) return;
    this.isLoading = true;
    try {
      const { data, next } = await this.visit.get("/v1/jobs", { ...this.filter, limit: 100, after: this.next });
      this.next = next;
      for (const job of data) this.add(job);
    } catch (error) {
      this.next = null;
      failed(error);
    }
    this.isLoading = false;
    this.changed();
  }

  heard(data) {
    const { batch } = this.filter;
    // A snapshot has the jobs that have not ended; an event may be of a job that is not known here yet.
    for (const job of data.jobs?.reverse() ?? []) if (!batch || job.batch === batch) this.add(job, true);
    const job = this.byId.get(data.job ?? data.id);
    if (job) apply(job, data);
    else if (!data.jobs) this.soon();
    this.changed();
  }

  /** Fetches what is new, at most once a second however many events there are. */
  soon() {
    if (!this.isStale) setTimeout(() => (this.isStale = false, this.refresh().catch(failed)), 1000);
    this.isStale = true;
  }
}

export async function page({ view, visit, query }) {
  const filter = { status: query.get("status") ?? "", batch: query.get("batch") ?? "" };
  const search = h("input", { id: "search", type: "search", placeholder: "An exact id, or a part of the prompt", "aria-label": "Search" });
  const status = select("status", [["", "All states"], "queued", "running", "parked", ...ENDED], filter.status, { "aria-label": "State" });
  const total = h("span.muted");
  const away = h("span.alarm", { hidden: true }, "Reconnecting …");
  const empty = h("p.empty", { hidden: true }, "No jobs here yet.");
  const grid = rows("Jobs", ["State:state", "Prompt", "Id:id wide", "Lane:lane wide", "Created:time"], cells, visit.signal, () => list.more());
  const list = new List(visit, filter, changed);

  function changed() {
    const part = search.value.trim().toLowerCase();
    const jobs = list.jobs.filter((job) => (!filter.status || job.status === filter.status) && (!part || `${job.id} ${job.prompt}`.toLowerCase().includes(part)));
    grid.update(jobs);
    show(total, `${count(jobs.length)}${list.next ? " and more" : ""}`);
    empty.hidden = jobs.length > 0 || list.isLoading;
  }
  async function open(event) {
    event.preventDefault();
    const text = search.value.trim();
    const { id } = list.byId.get(text) ?? await visit.get(jobPath(text)).catch((error) => {
      failed(error.status === 404 ? { title: "No such job", detail: `There is no job ${text}.` } : error);
      return {};
    });
    if (id) location.hash = `#/job/${id}`;
  }
  search.addEventListener("input", (event) => {
    failed();
    if (list.byId.has(search.value.trim())) open(event);
    changed();
  });
  status.addEventListener("change", () => {
    location.hash = `#/jobs?${new URLSearchParams({ ...filter, status: status.value })}`;
  });
  view.append(h("form.tools", { role: "search", onsubmit: open }, search, status, total, away), filter.batch && h("p", "Batch ", h("code", filter.batch)), grid.element, empty);
  if (query.has("search")) search.focus();
  await list.refresh();
  visit.listen("/v1/events", (kind, data) => list.heard(data), (isUp) => {
    // What ended while the stream was away is in the list, not in the snapshot.
    if (isUp && !away.hidden) list.soon();
    away.hidden = isUp;
  });
}
