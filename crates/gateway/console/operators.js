// Queues, workers and tenants, for operators: tables that are fetched anew every few seconds.

import { ago, count, failed, h, plain, s, show, table } from "./dom.js";

/** What an answer has beyond the known names, in words. */
const others = (object) => Object.entries(object ?? {}).filter(([, value]) => value !== null).map(([name, value]) => h("div", `${name.replaceAll("_", " ")}: ${plain(value)}`));

/** The partitions of a lane are one line. */
function byLane(data) {
  const lines = new Map();
  for (const { stage, lane, ...queue } of data) {
    const line = lines.get(`${stage} ${lane}`) ?? { stage, lane, partitions: 0, waiting: 0, unacknowledged: 0, consumers: 0 };
    lines.set(`${stage} ${lane}`, line);
    line.partitions += 1;
    for (const name of ["waiting", "unacknowledged", "consumers"]) line[name] += queue[name] ?? 0;
  }
  return [...lines.values()];
}

function load({ waiting, unacknowledged }, most) {
  const [working, both] = [(100 * unacknowledged) / most, (100 * (waiting + unacknowledged)) / most];
  const rect = (kind, width) => s(`rect.${kind}`, { width, height: 10 });
  return s("svg.bar", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, rect("ground", 100), rect("step", both), rect("stage", working));
}

function queues(data) {
  const lines = byLane(data);
  const most = Math.max(1, ...lines.map((line) => line.waiting + line.unacknowledged));
  return lines.map((line) => [line.stage, line.lane ?? "–", line.partitions, count(line.waiting), count(line.unacknowledged),
    line.consumers === 0 && line.waiting > 0 ? h("strong.alarm", "none") : line.consumers, load(line, most)]);
}

const workers = (data) => data.map(({ role, host, version, since, ...rest }) => [role, host, version, ago(since), others(rest)]);

const key = ({ id, scopes, expires }) => h("div", h("code", id), ` ${scopes.join(", ")}`, expires && [", expires ", ago(expires)]);

const tenants = (data) => data.map((one) => [one.tenant, one.keys.map(key), others(one.limits), count(one.held), count(one.today)]);

const TABLES = {
  queues: [queues, ["Stage", "Lane", "Partitions:number", "Waiting:number", "At work:number", "Consumers:number", "Load:chart"]],
  workers: [workers, ["Role", "Host", "Version", "Since:time", "More:text"]],
  tenants: [tenants, ["Tenant", "Keys:text", "Limits:text", "Held:number", "Today:number"]],
};

export async function page({ view, visit, name }) {
  const [lines, columns] = TABLES[name];
  const output = h("div.card");
  view.append(output);
  await visit.repeat(3000, async () => {
    try {
      const { data } = await visit.get(`/admin/${name}`);
      const fresh = table(name, columns, lines(data), `No ${name}.`);
      // The box that scrolls keeps its place and the focus; only its rows change.
      const [old, rows] = [output, fresh].map((one) => one.querySelector("tbody"));
      if (old && rows) old.replaceWith(rows);
      else show(output, fresh);
      failed();
    } catch (error) {
      failed(error);
    }
  });
}
