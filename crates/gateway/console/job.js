// One job: what it is doing or has become, where its time went, and what can be done with it.

import { ENDED, apply, call, jobPath } from "./api.js";
import { action, ago, card, count, dialog, facts, h, plain, s, seconds, show, table } from "./dom.js";
import { pictureCount, pictures, progressLine } from "./progress.js";
import { snippets } from "./snippets.js";

/** A share of the whole time, as a bar that begins where the one before ended. */
function bar(from, length, whole, kind) {
  const percent = (value) => ((100 * value) / whole).toFixed(2);
  return s("svg.bar", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, s("rect.ground", { width: 100, height: 10 }),
    s(`rect.${kind}`, { x: percent(from), width: Math.max(0.5, percent(length)), height: 10 }));
}

/** The stages one after the other, each with its steps. */
function timings({ timings: took = {}, cached, created, finished }) {
  const stages = ["dispatcher", "segmenter", "encoder", "sampler"].filter((stage) => stage in took);
  if (stages.length === 0) return null;
  const passed = finished ? (Date.parse(finished) - Date.parse(created)) / 1000 : 0;
  const worked = stages.reduce((sum, stage) => sum + took[stage], 0);
  const whole = Math.max(passed, worked, 1e-6);
  const lines = [];
  let from = 0;
  for (const stage of stages) {
    lines.push([[stage, " ", cached?.[stage] && h("span.tag", "cached")], seconds(took[stage]), bar(from, took[stage], whole, cached?.[stage] ? "cached" : "stage")]);
    let inner = from;
    for (const step of Object.keys(took).filter((name) => name.startsWith(`${stage}.`))) {
      lines.push([h("span.step", step.slice(stage.length + 1)), seconds(took[step]), bar(inner, took[step], whole, "step")]);
      inner += took[step];
    }
    from += took[stage];
  }
  if (passed > worked) lines.push(["queues and stores", seconds(passed - worked), bar(from, passed - worked, whole, "rest")]);
  return card("Timings", table("Timings", ["Stage", "Time:number", "Share of the whole:chart"], lines));
}

/** The subject's picture with the box drawn over it. */
function subject(job) {
  if (!job.subject) return null;
  const { name, box, how, score, image_url: src } = job.subject;
  const overlay = s("svg.box", { "aria-hidden": "true" });
  const picture = h("img", { src, alt: "The subject's picture", onload: () => {
    overlay.setAttribute("viewBox", `0 0 ${picture.naturalWidth} ${picture.naturalHeight}`);
    if (box) show(overlay, s("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top }));
  } });
  const place = { job: "given by the job", whole_image: "the whole picture", detector: "found by the detector", not_found: "not found, so the whole picture" };
  return card("Subject", h("div.stack", h("div.framed", picture, overlay),
    facts([["Name", name], ["Place", place[how]], ["Score", score && count(score)], ["Box", box && `${box.left}, ${box.top} to ${box.right}, ${box.bottom}`]])));
}

function details(job) {
  const { usage, parameters } = job;
  return [
    card("Job", facts([["Id", h("code", job.id)], ["Lane", job.lane], ["Created", ago(job.created)], ["Finished", job.finished && ago(job.finished)],
      ["Attempt", job.attempt > 1 && job.attempt], ["Batch", job.batch && h("a", { href: `#/jobs?batch=${job.batch}` }, job.batch)],
      ["Trace", job.trace_id && h("code", job.trace_id)], ...Object.entries(job.metadata ?? {})])),
    usage && card("Usage", facts([["Pictures", usage.images], ["Megapixels", count(usage.megapixels)], ["Device time", seconds(usage.device_seconds)],
      ["Previews", usage.previews], ["Price", usage.price && count(usage.price)]])),
    parameters && card("Parameters", facts(Object.entries(parameters).map(([name, value]) => [name.replaceAll("_", " "), value === null ? null : plain(value)]))),
  ];
}

export async function page({ view, heading, visit, id }) {
  const job = await visit.get(jobPath(id)).catch((error) => {
    if (error.status !== 404) throw error;
    heading.textContent = "No such job";
    view.append(h("p", "There is no job ", h("code", id), ". ", h("a", { href: "#/jobs" }, "All jobs")));
  });
  if (!job) return;
  const { request } = job;
  const line = progressLine();
  const frames = pictures(ENDED.includes(job.status) ? 0 : pictureCount(request));
  const [side, below] = [h("div.stack"), h("div")];
  let close = () => {};

  const cancel = action("Cancel", async () => update(await call("POST", jobPath(id, "/cancel"))));
  const again = action("Again", async () => {
    update(await call("POST", jobPath(id, "/again")));
    follow();
  });
  const remove = action("Delete", async () => {
    if (!await dialog("Delete this job?", "Delete", "Keep", h("p", "Its record and its pictures are removed. This cannot be undone."))) return;
    await call("DELETE", jobPath(id));
    location.hash = "#/jobs";
  }, { class: "alarm" });
  const change = request && h("a.button", { href: `#/playground/${job.id}` }, "Again with changes");

  function update(data) {
    const isEvent = !data.id;
    apply(job, data);
    line.update(job);
    frames.update(job);
    const isOver = ENDED.includes(job.status);
    cancel.hidden = isOver;
    remove.hidden = !isOver;
    again.hidden = job.status === "completed" || !(isOver || job.status === "parked");
    if (isOver) close();
    if (isEvent) return;
    show(side, subject(job), details(job));
    show(below, timings(job));
  }
  function follow() {
    if (!ENDED.includes(job.status)) close = visit.listen(jobPath(id, "/events"), (kind, data) => update(data));
  }
  heading.textContent = job.prompt || job.id;
  document.title = `${job.id} · EchoGen`;
  view.append(h("div.card.tabs", line.element, h("div.buttons", cancel, again, change, remove)),
    h("div.split.wide-left", h("div.stack", h("div.card", frames.element), below, request && snippets(() => request).element), side));
  update(job);
  follow();
  visit.repeat(2000, async () => job.status === "queued" && update(await visit.get(jobPath(id)).catch(() => job)));
}
