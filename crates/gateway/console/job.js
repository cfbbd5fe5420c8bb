// One job: what it is doing or has become, where its time went, and what can be done with it.

import { ENDED, call, jobPath } from "./api.js";
import { ago, bar, button, card, dialog, facts, h, others, s, seconds, show, table } from "./dom.js";
import { follow, pictureCount } from "./progress.js";
import { snippets } from "./snippets.js";

/** The stages one after the other, each with its steps. */
function timings({ timings: took = {}, cached, created, finished }) {
  const stages = ["dispatcher", "segmenter", "encoder", "sampler"].filter((stage) => stage in took);
  if (stages.length === 0) return null;
  const passed = finished ? (Date.parse(finished) - Date.parse(created)) / 1000 : 0;
  const worked = stages.reduce((sum, stage) => sum + took[stage], 0);
  const whole = Math.max(passed, worked, 1e-6);
  const lines = [];
  const line = (label, kind, from, length) =>
    lines.push([label, seconds(length), bar([kind, (100 * from) / whole, Math.max(0.5, (100 * length) / whole)])]);
  let from = 0;
  for (const stage of stages) {
    const isCached = cached?.[stage];
    line([stage, isCached && h("span.tag", "cached")], isCached ? "cached" : "stage", from, took[stage]);
    let inner = from;
    for (const step of Object.keys(took).filter((name) => name.startsWith(`${stage}.`)).reverse()) {
      line(h("span.step", step.slice(stage.length + 1)), "step", inner, took[step]);
      inner += took[step];
    }
    from += took[stage];
  }
  if (passed > worked) line("queues and stores", "rest", from, passed - worked);
  return card("Timings", table("Timings", ["Stage", "Time:number", "Share of the whole:chart"], lines));
}

function subject(job) {
  if (!job.subject) return null;
  const { name, box, how, score, image_url: src } = job.subject;
  const overlay = s("svg.box", { "aria-hidden": "true" });
  const picture = h("img", { src, alt: "The subject's picture", onload: () => {
    overlay.setAttribute("viewBox", `0 0 ${picture.naturalWidth} ${picture.naturalHeight}`);
    if (box) show(overlay, s("rect", { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top }));
  } });
  return card("Subject", h("div.stack", h("div.framed", picture, overlay),
    facts([["Name", name], ["Found by", how.replaceAll("_", " ")], ["Score", score],
      ["Box", box && `${box.left}, ${box.top} to ${box.right}, ${box.bottom}`]])));
}

function details(job) {
  const { usage, parameters } = job;
  return [
    card("Job", facts([["Id", h("code", job.id)], ["Lane", job.lane], ["Created", ago(job.created)],
      ["Finished", job.finished && ago(job.finished)],
      ["Batch", job.batch && h("a", { href: `#/jobs?batch=${job.batch}` }, job.batch)],
      ["Trace", job.trace_id && h("code", job.trace_id)], ...Object.entries(job.metadata ?? {})])),
    usage && card("Usage", facts(others(usage))),
    parameters && card("Parameters", facts(others(parameters))),
  ];
}

export async function page({ view, heading, visit, id }) {
  const job = await visit.get(jobPath(id)).catch((error) => {
    if (error.status !== 404) throw error;
    show(heading, document.title = "No such job");
    view.append(h("p", "There is no job ", h("code", id), ". ", h("a", { href: "#/jobs" }, "All jobs")));
  });
  if (!job) return;
  const { request } = job;
  const [side, below] = [h("div.stack"), h("div")];
  const remove = button(".alarm", "Delete", async () => {
    if (!await dialog("Delete this job?", "Delete", "Keep",
      h("p", "Its record and its pictures are removed for good."))) return;
    await call("DELETE", jobPath(id));
    location.hash = "#/jobs";
  });
  const change = request && h("a.button", { href: `#/playground/${job.id}` }, "Again with changes");
  const parts = follow(job, pictureCount(request), visit, () => {
    remove.hidden = !ENDED.includes(job.status);
    show(side, subject(job), details(job));
    show(below, timings(job));
  });
  show(heading, job.prompt);
  document.title = `${job.id} · EchoGen`;
  view.append(h("div.card.between", parts.line, h("div.buttons", parts.buttons, change, remove)),
    h("div.split.wide-left", h("div.stack", h("div.card", parts.pictures), below, request && snippets(() => request).element),
      side));
}
