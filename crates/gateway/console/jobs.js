// Jobs: the newest first, kept right by one event stream; filter, search, and an exact id at once.

import { ENDED, apply, jobPath } from "./api.js";
import { ago, badge, count, failed, form, h, select, show } from "./dom.js";
import { rows } from "./rows.js";

const COLUMNS = ["State:state", "Prompt", "Id:id wide", "Lane:lane wide", "Created:time"];

function cells({ id, status, progress, queue, prompt, lane, created }) {
  const more = status === "running" ? progress &&
    h("progress", { max: progress.scales, value: progress.scale, "aria-label": "Progress" })
    : status === "queued" && queue && h("span.muted", `${count(queue.ahead)} ahead`);
  return [[badge(status), more], h("a", { href: `#/job/${id}` }, prompt), h("code", id), lane, ago(created)];
}

function jobList(visit, filter, changed) {
  const list = { jobs: [], byId: new Map(), next: null, more, heard, refresh };
  let isLoading = false, isStale = false;

  function add(job, isNew) {
    const known = list.byId.get(job.id);
    if (known) return apply(known, job);
    list.byId.set(job.id, job);
    list.jobs[isNew ? "unshift" : "push"](job);
  }
  /** Without `after` the first page: known jobs are renewed, others come to the top. */
  async function refresh(after) {
    const { data, next } = await visit.get("/v1/jobs", { ...filter, limit: 200, after });
    const isNew = !after && list.jobs.length > 0;
    if (!isNew) list.next = next;
    for (const job of isNew ? data.reverse() : data) add(job, isNew);
    changed();
  }
  async function more() {
    if (!list.next || isLoading) return;
    isLoading = true;
    await refresh(list.next).catch((error) => {
      list.next = null;
      failed(error);
    });
    isLoading = false;
    changed();
  }
  function heard(data) {
    // A snapshot has the jobs that have not ended. At a job that is new here the list is asked, once a second at most.
    for (const job of data.jobs?.reverse() ?? []) if (!filter.batch || job.batch === filter.batch) add(job, true);
    const job = list.byId.get(data.job);
    if (job) apply(job, data);
    else if (!data.jobs && !isStale) {
      isStale = true;
      setTimeout(() => {
        isStale = false;
        refresh().catch(failed);
      }, 1000);
    }
    changed();
  }
  return list;
}

export async function page({ view, visit, query }) {
  const filter = { status: query.get("status"), batch: query.get("batch") };
  const search = h("input",
    { id: "search", type: "search", placeholder: "An exact id, or a part of the prompt", "aria-label": "Search" });
  const status = select("status", [["", "All states"], "queued", "running", "parked", ...ENDED], filter.status ?? "");
  status.ariaLabel = "State";
  const [total, away, empty] = [h("span.muted"), h("span.alarm", { hidden: true }, "Reconnecting …"),
    h("p.empty", { hidden: true }, "No jobs.")];
  const table = rows("Jobs", COLUMNS, cells, visit.signal, () => list.more());
  const list = jobList(visit, filter, changed);

  function changed() {
    const part = search.value.trim().toLowerCase();
    const jobs = list.jobs.filter((job) => (!filter.status || job.status === filter.status) &&
      `${job.id} ${job.prompt}`.toLowerCase().includes(part));
    table.update(jobs);
    show(total, jobs.length, list.next && " and more");
    empty.hidden = jobs.length > 0 || Boolean(list.next);
  }
  async function open() {
    const { id } = await visit.get(jobPath(search.value.trim())).catch((error) => error);
    if (!id) throw { title: `There is no job ${search.value}` };
    location.hash = `#/job/${id}`;
  }
  search.addEventListener("input", () => {
    failed();
    if (list.byId.has(search.value.trim())) location.hash = `#/job/${search.value.trim()}`;
    changed();
  });
  status.addEventListener("change", () => {
    location.hash = `#/jobs?status=${status.value}&batch=${filter.batch ?? ""}`;
  });
  view.append(form(".tools", { role: "search" }, open, search, status, total, away),
    filter.batch ? h("p", "Batch ", h("code", filter.batch)) : "", table.element, empty);
  if (query.has("search")) search.focus();
  await list.refresh();
  visit.listen("/v1/events", list.heard, (isUp) => {
    // What ended while the stream was away is in the list, not in the snapshot.
    if (isUp && !away.hidden) list.refresh().catch(failed);
    away.hidden = isUp;
  });
}
