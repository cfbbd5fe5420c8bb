// Dead letters, for operators: filter, look, then redrive or drop exactly as many as were counted.

import { call } from "./api.js";
import { ago, announce, button, card, count, dialog, field, form, h, show, table } from "./dom.js";

const cells = ({ queue, job, reason, attempt, since }) =>
  [ago(since), reason, attempt, h("code", queue), job && h("a", { href: `#/job/${job}` }, h("code", job))];

export async function page({ view, visit }) {
  const inputs = ["queue", "reason", "job", "tenant"].map((id) => h("input", { id }));
  const filter = () => Object.fromEntries(inputs.map(({ id, value }) => [id, value.trim()]).filter(([, value]) => value));
  const [output, done] = [h("div"), h("p.completed")];
  let letters = [];

  async function load(after) {
    const { data, next } = await visit.get("/admin/dead-letters", { ...filter(), limit: 100, after });
    letters = after ? [...letters, ...data] : data;
    show(output, table("Dead letters", ["Since:time", "Reason:text", "Attempts:number", "Queue", "Job"], letters.map(cells),
      "No dead letters."),
      next && button("", "More", () => load(next)));
  }

  /** First the exact number, then the same number back as the confirmation. */
  async function settle(verb, past, warning) {
    show(done);
    const path = `/admin/dead-letters/${verb.toLowerCase()}`;
    const chosen = filter();
    const { count: confirm } = await call("POST", path, { json: chosen });
    const label = `${verb} ${count(confirm)}`;
    if (confirm === 0) throw { title: "No dead letter matches the filter" };
    if (!await dialog(`${label}?`, label, "Cancel", h("p", warning))) return;
    const answer = await call("POST", path, { json: { ...chosen, confirm } }).catch((error) => {
      throw error.status === 409 ? { title: "The number has changed meanwhile", detail: "Nothing was done. Look again." }
        : error;
    });
    show(done, `${count(answer.done)} ${past}.`);
    announce(done.textContent);
    await load();
  }
  view.append(form(".tools", {}, () => load(), inputs.map((input) => field(input)), h("button", "Filter")),
    card(null, h("div.buttons",
      button("", "Redrive …", () => settle("Redrive", "redriven", "Their tasks are published again.")),
      button(".alarm", "Drop …", () => settle("Drop", "dropped", "They are deleted. This cannot be undone.")), done), output));
  await load();
}
