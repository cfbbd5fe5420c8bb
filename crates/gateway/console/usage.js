// Usage: what was made, by day or by a key of the metadata, and what is left of the limits.

import { card, count, failed, field, h, s, seconds, select, show, table, wide } from "./dom.js";

const MEASURES = [["images", "Pictures"], ["jobs", "Jobs"], ["megapixels", "Megapixels"], ["device_seconds", "Device time"],
  ["price", "Price"]];
const [HEIGHT, STEP] = [160, 26];

function chart(data, measure, label) {
  const most = Math.max(...data.map((one) => one[measure] ?? 0), 1e-9);
  const width = Math.max(30, data.length) * STEP;
  const bars = data.map((one, at) => {
    const height = Math.max(1, (HEIGHT * (one[measure] ?? 0)) / most);
    return [s("rect", { x: at * STEP + 4, y: HEIGHT + 16 - height, width: STEP - 8, height, rx: 2 },
      s("title", `${one.key}: ${count(one[measure])}`)),
      at % 3 === 0 && s("text", { x: at * STEP + 4, y: HEIGHT + 32 }, one.key.replace(/^\d{4}-/, "").slice(0, 9))];
  });
  return wide("Chart",
    s("svg.columns", { viewBox: `0 0 ${width} ${HEIGHT + 40}`, width, role: "img",
      "aria-label": `${label}, at most ${count(most)}; the table has the numbers` },
      s("text", { y: 10 }, most), bars));
}

function limits({ pictures_a_day: today, jobs_held: held }) {
  const lines = [["Pictures today", today], ["Jobs held", held]].filter(([, one]) =>
    one?.limit).map(([label, { used, limit }]) =>
    h("div.buttons", label, h("progress", { max: limit, value: used, "aria-label": label }), h("span", used, " of ", limit)));
  return lines.length > 0 && card("Limits", lines);
}

export async function page({ view, visit }) {
  const day = (back) => new Date(Date.now() - back * 86_400_000).toISOString().slice(0, 10);
  const [from, to] = [["from", 29], ["to", 0]].map(([id, back]) => h("input", { type: "date", id, value: day(back) }));
  const by = h("input", { id: "by", value: "day", placeholder: "day, metadata.KEY" });
  const chosen = select("chart", MEASURES);
  const [top, output] = [h("div"), h("div.stack")];
  let answer = { data: [] };

  function draw() {
    const { data, total } = answer;
    const label = MEASURES.find(([name]) => name === chosen.value)[1];
    const cells = (one) => MEASURES.map(([name]) => (name === "device_seconds" ? seconds(one[name]) : one[name]));
    const lines = data.map((one) => [one.key, ...cells(one)]);
    if (lines.length > 0 && total) lines.push([h("strong", "Total"), ...cells(total)]);
    show(output, answer.next && h("p", "These are the newest jobs only; `echogen usage` sums all."), lines.length > 0 &&
      card(label, chart(data, chosen.value, label)),
      card(null, table("Usage", [by.value, ...MEASURES.map(([, title]) => `${title}:number`)], lines,
        "Nothing was made in this time.")));
  }
  async function load() {
    failed();
    answer = await visit.get("/v1/usage", { from: from.value, to: to.value, by: by.value });
    draw();
  }
  for (const control of [from, to, by]) control.addEventListener("change", () => load().catch(failed));
  chosen.addEventListener("change", draw);
  view.append(h("div.tools", field(from), field(to), field(by), field(chosen)), top, output);
  visit.get("/v1/limits").then((one) => show(top, limits(one)), () => {});
  await load();
}
