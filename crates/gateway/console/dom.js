// Builds the page's elements. Text becomes text nodes only; there is no way to pass HTML or a style attribute.

function make(space, names, ...parts) {
  const [tag, ...classes] = names.split(".");
  const element = document.createElementNS(space, tag);
  const attributes = parts[0]?.constructor === Object ? parts.shift() : {};
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value || value === 0 || value === "") element.setAttribute(name, value === true ? "" : value);
  }
  element.classList.add(...classes.filter(Boolean));
  return show(element, parts);
}

/** `h("p.hint", { id: "x", onclick }, children …)` */
export const h = make.bind(null, "http://www.w3.org/1999/xhtml");
export const s = make.bind(null, "http://www.w3.org/2000/svg");

export function show(element, ...parts) {
  element.replaceChildren(...parts.flat(9).filter((part) => part || part === 0).map((part) =>
    (part.toFixed ? count(part) : part)));
  return element;
}

export const byId = (id) => document.getElementById(id);

const ICONS = {
  queued: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zm0 4v5l3.5 2",
  running: "M8 5.5v13l10.5-6.5z",
  completed: "M4.5 12.5l5 5 10-11",
  failed: "M6 6l12 12M18 6L6 18",
  cancelled: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM5.7 5.7l12.6 12.6",
  expired: "M7 3h10M7 21h10M8 3c0 5 8 7 8 9s-8 4-8 9M16 3c0 5-8 7-8 9s8 4 8 9",
  parked: "M9 5v14M15 5v14",
  playground: "M4 5h16v14H4zM4 15l4.5-4 4 4 3-2.5L20 16M15.5 9h.01",
  jobs: "M8 6h12M8 12h12M8 18h12M4 6h.01M4 12h.01M4 18h.01",
  batches: "M4 8l8-4 8 4-8 4zM4 12l8 4 8-4M4 16l8 4 8-4",
  usage: "M5 20v-7M12 20V5M19 20v-10",
  queues: "M4 7h10M4 12h16M4 17h7",
  "dead-letters": "M4 6h16v12H4zM4 7l8 6 8-6",
  workers: "M5 5h14v6H5zM5 13h14v6H5zM8 8h.01M8 16h.01",
  tenants: "M12 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM5 20c0-4 3-6 7-6s7 2 7 6",
};

export const icon = (name) =>
  s(`svg.icon.icon-${name}`, { viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: ICONS[name] }));

export const badge = (status) => h(`span.badge.${status}`, icon(status), status);

/** Says something to screen readers. */
export function announce(text) {
  byId("live").textContent = text;
}

/** Shows an error below the page's heading, or clears it. */
export function failed(error) {
  const box = byId("errors");
  if (!box || error?.name === "AbortError") return;
  if (error instanceof Error) console.error(error);
  const fields = error?.errors?.map((one) => h("div", h("code", one.pointer ?? ""), " ", one.detail));
  show(box, error && h("div.notice", { role: "alert" }, icon("failed"),
    h("div", h("strong", error.title ?? error.message), h("p", error.detail), fields)));
  if (error) box.scrollIntoView({ block: "nearest" });
}

/** A button that is off while its work is going on. */
export function button(names, label, work) {
  const element = h(`button${names}`, { type: "button", onclick: async () => {
    element.disabled = true;
    failed();
    await Promise.resolve().then(work).catch(failed);
    element.disabled = false;
  } }, label);
  return element;
}

export const form = (names, attributes, work, ...parts) => h(`form${names}`, { ...attributes, onsubmit: (event) => {
  event.preventDefault();
  failed();
  Promise.resolve().then(work).catch(failed);
} }, parts);

export const field = (control, label = control.id) => h("div.field", h("label", { for: control.id }, label), control);

export const select = (id, options, chosen) => h("select", { id }, options.map((one) => [one].flat()).map((one) =>
  h("option", { value: one[0], selected: one[0] === chosen }, one.at(-1))));

export const card = (title, ...parts) => h("section.card", title && h("h2", title), parts);

export const facts = (pairs) =>
  h("dl.facts", pairs.filter(([, value]) => value || value === 0).map(([name, value]) => [h("dt", name), h("dd", value)]));

/** A table's head and what makes its rows. A column is its title, with a class after a colon. */
export function grid(columns) {
  const [titles, names] = [0, 1].map((part) => columns.map((column) => column.split(":")[part]));
  const row = (cells, index, tag = "td", scope) =>
    h("tr", { "aria-rowindex": index }, cells.map((cell, at) => h(tag, { class: names[at], scope }, cell)));
  return [h("thead", row(titles, null, "th", "col")), row];
}

/** What is wider than the page scrolls sideways, also by keys. */
export const wide = (label, ...parts) => h("div.scroll", { tabindex: "0", role: "region", "aria-label": label }, parts);

export function table(label, columns, lines, empty) {
  if (lines.length === 0) return h("p.empty", empty);
  const [head, row] = grid(columns);
  return wide(label, h("table", head, h("tbody", lines.map((cells) => row(cells)))));
}

/** A bar in a table's cell: parts are `[class, from, length]` in percent. */
export const bar = (...parts) => s("svg.bar", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
  [["ground", 0, 100], ...parts].map(([name, x, width]) => s(`rect.${name}`, { x, width, height: 10 })));

export function dropZone(id, accept, words, send, ...before) {
  const input = h("input.unseen", { type: "file", id, accept });
  const label = h("span", words);
  const take = (event) => {
    event.preventDefault();
    failed();
    const { files } = event.dataTransfer ?? input;
    if (files[0]) send(files[0]).catch(failed);
  };
  input.addEventListener("change", take);
  return { element: h("div", input,
    h("label.drop", { for: id, ondragover: (event) => event.preventDefault(), ondrop: take }, before, label)), label };
}

/** Opens a modal dialog; resolves to whether the answer was yes. */
export function dialog(title, yes, no, ...parts) {
  return new Promise((resolve) => {
    const cancel = button("", no, () => element.close());
    cancel.autofocus = true;
    const element = h("dialog", { "aria-labelledby": "dialog" }, h("h2", { id: "dialog" }, title), parts,
      h("div.buttons", yes && button(".danger", yes, () => element.close("yes")), cancel));
    element.addEventListener("close", () => {
      element.remove();
      resolve(element.returnValue === "yes");
    });
    document.body.append(element);
    element.showModal();
  });
}

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const small = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const relative = new Intl.RelativeTimeFormat("en", { style: "narrow" });

export const count = (value) => (value < 1 ? small : number).format(value);

export function seconds(value) {
  const [unit, size] = value < 1 ? ["ms", 0.001] : value < 120 ? ["s", 1] : value < 7200 ? ["min", 60] : ["h", 3600];
  return `${small.format(value / size)} ${unit}`;
}

export function ago(text) {
  if (!text) return "–";
  const since = (Date.parse(text) - Date.now()) / 1000;
  const units = [[60, "second", 1], [3600, "minute", 60], [86400, "hour", 3600], [Infinity, "day", 86400]];
  const [, unit, size] = units.find(([limit]) => Math.abs(since) < limit);
  return h("time", { datetime: text, title: new Date(text).toLocaleString("en-GB") },
    relative.format(Math.round(since / size), unit));
}

/** Names and values that are not known beforehand. */
export const others = (object) => Object.entries(object ?? {}).filter(([, value]) => value !== null)
  .map(([name, value]) => [name.replaceAll("_", " "), typeof value === "object" ? JSON.stringify(value) : value]);
