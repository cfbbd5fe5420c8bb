// Builds the page's elements. Text becomes text nodes only; there is no way to pass HTML or a style attribute.

function fill(element, name, parts) {
  const isMap = parts[0]?.constructor === Object;
  for (const [key, value] of Object.entries(isMap ? parts.shift() : {})) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  if (name.length > 0) element.classList.add(...name);
  element.append(...parts.flat(9).filter((part) => part || part === 0));
  return element;
}

/** `h("p.hint", { id: "x" }, children …)`: listeners are given as `onclick: function`. */
export function h(names, ...parts) {
  const [tag, ...name] = names.split(".");
  return fill(document.createElement(tag), name, parts);
}

/** The same for SVG. */
export function s(names, ...parts) {
  const [tag, ...name] = names.split(".");
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), name, parts);
}

/** Replaces what an element shows. */
export function show(element, ...parts) {
  element.replaceChildren();
  return fill(element, [], [{}, ...parts]);
}

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
  tenants: "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM3 20c0-4 3-6 6-6s6 2 6 6M16 4.5a3.5 3.5 0 0 1 0 6M18 14.5c2 .8 3 2.7 3 5.5",
  out: "M10 4H5v16h5M15 8l4 4-4 4M19 12H9",
};

/** An icon; hidden from screen readers, which have the word beside it. */
export const icon = (name) => s(`svg.icon.icon-${name}`, { viewBox: "0 0 24 24", "aria-hidden": "true" }, s("path", { d: ICONS[name] }));

/** A job's state as icon and word. */
export const badge = (status) => h(`span.badge.${status}`, icon(status), status);

/** Says something to screen readers, in the page's one live region. */
export function announce(text) {
  document.getElementById("live").textContent = text;
}

/** Shows an error below the page's heading: a problem's title, its detail, and the fields it names. Without one, clears it. */
export function failed(error) {
  const box = document.getElementById("errors");
  if (!box || error?.name === "AbortError") return;
  const fields = (error?.errors ?? []).map((one) => h("li", one.pointer && h("code", one.pointer), " ", one.detail));
  show(box, error && h("div.notice", { role: "alert" }, icon("failed"), h("div", h("strong", error.title ?? "That did not work"),
    h("p", error.detail ?? error.message), fields.length > 0 && h("ul", fields))));
  if (error) box.scrollIntoView({ block: "nearest" });
}

/** A button that is off while its work is going on. */
export function action(label, work, attributes = {}) {
  const button = h("button", { type: "button", ...attributes }, label);
  button.addEventListener("click", async () => {
    button.disabled = true;
    failed();
    await work().catch(failed);
    button.disabled = false;
  });
  return button;
}

/** A labelled input, select or textarea. */
export const field = (label, control) => h("div.field", h("label", { for: control.id }, label), control);

/** A select of `[value, label]` pairs or plain values. */
export function select(id, options, value, attributes) {
  const element = h("select", { id, ...attributes }, options.map((one) => h("option", { value: [one].flat()[0] }, [one].flat().at(-1))));
  element.value = value;
  return element;
}

export const card = (title, ...parts) => h("section.card", title && h("h2", title), parts);

/** Names and values; those without a value are left out. */
export const facts = (pairs) => h("dl.facts", pairs.filter(([, value]) => value || value === 0).map(([name, value]) => [h("dt", name), h("dd", value)]));

/** A table that scrolls sideways. A column is its title, with a class after a colon. */
export function table(caption, columns, lines, empty) {
  if (lines.length === 0) return h("p.empty", empty);
  const [titles, names] = [0, 1].map((part) => columns.map((column) => column.split(":")[part]));
  const row = (cells, tag, scope) => h("tr", cells.map((cell, at) => h(tag, { class: names[at], scope }, cell)));
  return h("div.scroll", { tabindex: "0", role: "region", "aria-label": caption },
    h("table", h("thead", row(titles, "th", "col")), h("tbody", lines.map((cells) => row(cells, "td")))));
}

/** A file, chosen or dropped. `label` is the place for words. */
export function dropZone(id, accept, words, send, ...before) {
  const input = h("input.unseen", { type: "file", id, accept });
  const label = h("span", words);
  const drop = h("label.drop", { for: id, ondragover: (event) => event.preventDefault() }, before, label);
  const take = (files) => files[0] && send(files[0]);
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files);
  });
  input.addEventListener("change", () => take(input.files));
  return { element: h("div", input, drop), label };
}

/** Opens a modal dialog; resolves to whether it was closed with yes. */
export function dialog(title, yes, no, ...parts) {
  return new Promise((resolve) => {
    const cancel = h("button", { type: "button", autofocus: true, onclick: () => element.close() }, no);
    const confirm = yes && h("button.danger", { type: "button", onclick: () => element.close("yes") }, yes);
    const element = h("dialog", { "aria-labelledby": "dialog" }, h("h2", { id: "dialog" }, title), parts, h("div.buttons", confirm, cancel));
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

/** A number for people; a dash for none. */
export const count = (value) => (value === null || value === undefined ? "–" : (Math.abs(value) < 1 ? small : number).format(value));

/** A duration in the unit that suits it. */
export function seconds(value) {
  if (value === null || value === undefined) return "–";
  const [unit, size] = value < 1 ? ["ms", 0.001] : value < 120 ? ["s", 1] : value < 7200 ? ["min", 60] : ["h", 3600];
  return `${small.format(value / size)} ${unit}`;
}

/** How long ago a time was, with the exact time at hand. */
export function ago(text) {
  if (!text) return "–";
  const since = (Date.parse(text) - Date.now()) / 1000;
  const units = [[60, "second", 1], [3600, "minute", 60], [86400, "hour", 3600], [Infinity, "day", 86400]];
  const [, unit, size] = units.find(([limit]) => Math.abs(since) < limit);
  return h("time", { datetime: text, title: new Date(text).toLocaleString() }, relative.format(Math.round(since / size), unit));
}

/** Anything of an answer that is not known by name. */
export const plain = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
