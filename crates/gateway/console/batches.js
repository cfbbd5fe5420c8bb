// Batches: a file with one job a line goes in, one result a line comes out.

import { ENDED, call } from "./api.js";
import { ago, announce, badge, button, card, count, dialog, dropZone, failed, h, show, table } from "./dom.js";

export async function page({ view, visit }) {
  const [outcome, list] = [h("div"), h("div")];
  const zone = dropZone("batch", ".jsonl,.ndjson", "Choose a JSONL file, one job a line, or drop it here", send);

  function cells({ id, status, created, jobs, counts = {} }) {
    const done = ["deleted", ...ENDED].reduce((sum, state) => sum + (counts[state] ?? 0), 0);
    const cancel = async () => {
      if (!await dialog("Cancel this batch?", "Cancel the batch", "Keep",
        h("p", "Jobs of it that have not ended are cancelled."))) return;
      await call("POST", `/v1/batches/${id}/cancel`);
    };
    return [h("a", { href: `#/jobs?batch=${id}` }, h("code", id)), ago(created),
      h("div.buttons", h("progress", { max: jobs || 1, value: done, "aria-label": `Progress of ${id}` }),
        h("span", done, " of ", jobs),
        Object.entries(counts).map(([state, number]) => number > 0 && h("span", badge(state), " ", number))),
      h("span.buttons", h("a.button.small", { href: `/v1/batches/${id}/results`, download: `${id}.jsonl` }, "Results"),
        status !== "ended" && button(".small", "Cancel", cancel))];
  }
  async function refresh() {
    // What is being used is not replaced under the hand.
    if (list.contains(document.activeElement)) return;
    const { data } = await visit.get("/v1/batches");
    show(list, table("Batches", ["Batch", "Created:time", "Progress:text", "Actions"], data.map(cells), "No batches yet."));
  }
  async function send(file) {
    show(zone.label, `Sending ${file.name} …`);
    const { id, jobs, refused, errors = [] } = await call("POST", "/v1/batches",
      { body: file, headers: { "content-type": "application/jsonl" } })
      .finally(() => show(zone.label, "Choose another file"));
    const words = `${count(jobs)} jobs accepted, ${count(refused)} lines refused`;
    announce(words);
    show(outcome, card(words, h("p", "Batch ", h("code", id)),
      errors.length > 0 && table("Refused lines", ["Line:number", "Why:text"],
        errors.map(({ line, detail }) => [line, detail]))));
    await refresh();
  }
  view.append(card("New batch", zone.element), outcome, card("All batches", list));
  visit.repeat(3000, refresh);
}
