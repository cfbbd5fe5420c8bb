// Queues, workers and tenants, for operators: tables that are fetched anew every few seconds.

import { ago, bar, failed, h, others, show, table } from "./dom.js";

const words = (object) => others(object).map((pair) => h("div", pair.join(": ")));

/** The partitions of a lane are one line. */
function queues(data) {
  const lines = new Map();
  for (const { stage, lane = "–", waiting } of data) {
    const line = lines.get(`${stage} ${lane}`) ?? { stage, lane, partitions: 0, waiting: 0 };
    lines.set(`${stage} ${lane}`, line);
    line.partitions += 1;
    line.waiting += waiting;
  }
  const most = Math.max(1, ...[...lines.values()].map((line) => line.waiting));
  return [...lines.values()].map(({ stage, lane, partitions, waiting }) =>
    [stage, lane, partitions, waiting, bar(["stage", 0, (100 * waiting) / most])]);
}

const key = ({ id, scopes, expires }) =>
  h("div", h("code", id), ` ${scopes.join(", ")}`, expires && [", expires ", ago(expires)]);

const TABLES = {
  queues: [queues, ["Stage", "Lane", "Partitions:number", "Waiting:number", "Load:chart"]],
  workers: [(data) => data.map(({ role, host, version, since, ...rest }) => [role, host, version, ago(since), words(rest)]),
    ["Role", "Host", "Version", "Since:time", "More:text"]],
  tenants: [(data) => data.map((one) => [one.tenant, one.keys.map(key), words(one.limits), one.held, one.today]),
    ["Tenant", "Keys:text", "Limits:text", "Held:number", "Today:number"]],
};

export async function page({ view, visit, name }) {
  const [lines, columns] = TABLES[name];
  const output = h("div.card");
  view.append(output);
  await visit.repeat(3000, async () => {
    const { data } = await visit.get(`/admin/${name}`);
    const fresh = table(name, columns, lines(data), `No ${name}.`);
    // The box that scrolls keeps its place and the focus; only its rows change.
    const [old, rows] = [output, fresh].map((one) => one.querySelector("tbody"));
    if (old && rows) old.replaceWith(rows);
    else show(output, fresh);
  });
}
