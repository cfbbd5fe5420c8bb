// Usage: what was made, by day or by a key of the metadata, and what is left of the limits.

import { card, count, failed, field, h, s, seconds, select, show, table } from "./dom.js";

const MEASURES = [["images", "Pictures"], ["jobs", "Jobs"], ["megapixels", "Megapixels"], ["device_seconds", "Device seconds"], ["price", "Price"]];
const [HEIGHT, STEP] = [160, 26];

/** A bar chart; the table below it has the same numbers. */
function chart(data, measure, label) {
  const most = Math.max(...data.map((one) => one[measure] ?? 0), 1e-9);
  const width = Math.max(30, data.length) * STEP;
  const every = Math.ceil(data.length / 12);
  const bars = data.map((one, at) => {
    const height = Math.max(1, (HEIGHT * (one[measure] ?? 0)) / most);
    return [s("rect", { x: at * STEP + 4, y: HEIGHT + 16 - height, width: STEP - 8, height, rx: 2 }, s("title", `${one.key}: ${count(one[measure])}`)),
      at % every === 0 && s("text", { x: at * STEP + 4, y: HEIGHT + 32 }, one.key.replace(/^\d{4}-/, "").slice(0, 9))];
  });
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": "Chart" },
    s("svg.columns", { viewBox: `0 0 ${width} ${HEIGHT + 40}`, width, role: "img", "aria-label": `${label}, at most ${count(most)}; the table has the numbers` },
      s("text", { y: 10 }, count(most)), s("line", { x2: width, y1: HEIGHT + 16, y2: HEIGHT + 16 }), bars));
}

function limits({ pictures_a_day: today, jobs_held: held }) {
  const lines = [["Pictures today", today], ["Jobs held", held]].filter(([, one]) => one?.limit).map(([label, { used, limit }]) =>
    h("div.limit", label, h("progress", { max: limit, value: used, "aria-label": label }), `${count(used)} of ${count(limit)}`));
  return lines.length > 0 && card("Limits", lines);
}

export async function page({ view, visit }) {
  const day = (back) => new Date(Date.now() - back * 86_400_000).toISOString().slice(0, 10);
  const [from, to] = [h("input", { type: "date", id: "from", value: day(29) }), h("input", { type: "date", id: "to", value: day(0) })];
  const by = h("input", { id: "by", value: "day", placeholder: "day, metadata.KEY" });
  const measure = select("measure", MEASURES, "images");
  const [top, output] = [h("div"), h("div.stack")];
  let answer = { data: [] };

  function draw() {
    const { data, total } = answer;
    const label = MEASURES.find(([key]) => key === measure.value)[1];
    const cells = (one) => [count(one.jobs), count(one.images), count(one.megapixels), seconds(one.device_seconds), count(one.price)];
    const lines = data.map((one) => [one.key, ...cells(one)]);
    if (lines.length > 0 && total) lines.push([h("strong", "Total"), ...cells(total)]);
    show(output, lines.length > 0 && card(label, chart(data, measure.value, label)),
      card("Table", table("Usage", [by.value, "Jobs:number", "Pictures:number", "Megapixels:number", "Device time:number", "Price:number"], lines, "Nothing was made in this time.")));
  }
  async function load() {
    failed();
    answer = await visit.get("/v1/usage", { from: from.value, to: to.value, by: by.value });
    draw();
  }
  for (const control of [from, to, by]) control.addEventListener("change", () => load().catch(failed));
  measure.addEventListener("change", draw);
  view.append(h("div.tools", field("From", from), field("To", to), field("By", by), field("Chart", measure)), top, output);
  visit.get("/v1/limits").then((one) => show(top, limits(one)), () => {});
  await load();
}
