// Dead letters, for operators: filter, look, then redrive or drop exactly as many as were counted.

import { call } from "./api.js";
import { action, ago, announce, card, count, dialog, failed, field, h, show, table } from "./dom.js";

const cells = ({ queue, job, reason, attempt, since }) =>
  [h("code", queue), job ? h("a", { href: `#/job/${job}` }, h("code", job)) : "–", reason, count(attempt), ago(since)];

export async function page({ view, visit }) {
  const inputs = ["queue", "reason", "job", "tenant"].map((id) => h("input", { id }));
  const filter = () => Object.fromEntries(inputs.map(({ id, value }) => [id, value.trim()]).filter(([, value]) => value));
  const [output, done] = [h("div"), h("p.completed")];
  let letters = [];

  async function load(after) {
    const { data, next } = await visit.get("/admin/dead-letters", { ...filter(), limit: 100, after });
    letters = after ? [...letters, ...data] : data;
    show(output, table("Dead letters", ["Queue", "Job", "Reason:text", "Attempts:number", "Since:time"], letters.map(cells), "No dead letters."),
      next && action("More", () => load(next)));
  }

  /** First the exact number, then the same number back as the confirmation. */
  async function settle(verb, past, warning) {
    show(done);
    const path = `/admin/dead-letters/${verb.toLowerCase()}`;
    const chosen = filter();
    const { count: confirm } = await call("POST", path, { json: chosen });
    const label = `${verb} ${count(confirm)}`;
    const which = Object.keys(chosen).length > 0 ? "that match the filter" : "of all queues";
    if (confirm === 0) throw { title: "Nothing to do", detail: "No dead letter matches the filter." };
    if (!await dialog(`${label}?`, label, "Cancel", h("p", `${count(confirm)} dead letters ${which}. ${warning}`))) return;
    const answer = await call("POST", path, { json: { ...chosen, confirm } }).catch((error) => {
      throw error.status === 409 ? { title: "The number has changed meanwhile", detail: "Nothing was done. Look again." } : error;
    });
    show(done, `${count(answer.done)} ${past}.`);
    announce(done.textContent);
    await load();
  }
  const search = (event) => {
    event.preventDefault();
    failed();
    load().catch(failed);
  };
  view.append(h("form.tools", { onsubmit: search }, inputs.map((input) => field(input.id, input)), h("button", "Filter")),
    card(null, h("div.buttons", action("Redrive …", () => settle("Redrive", "redriven", "Their tasks are published again.")),
      action("Drop …", () => settle("Drop", "dropped", "They are deleted. This cannot be undone."), { class: "alarm" }), done), output));
  await load();
}
