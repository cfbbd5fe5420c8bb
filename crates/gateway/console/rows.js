// A table that draws only the rows in sight, so that ten thousand of them scroll as well as ten.

import { h, show } from "./dom.js";

const SPARE = 8;

/** `columns` as in `table`; `cells` makes an item's cells; `nearEnd` is called when the last rows come into sight. */
export function rows(caption, columns, cells, signal, nearEnd) {
  const [titles, names] = [0, 1].map((part) => columns.map((column) => column.split(":")[part]));
  const [before, body, after] = [h("tbody", { "aria-hidden": "true" }), h("tbody"), h("tbody", { "aria-hidden": "true" })];
  const head = h("tr", titles.map((title, at) => h("th", { scope: "col", class: names[at] }, title)));
  const element = h("table.rows", { "aria-label": caption }, h("thead", head), before, body, after);
  let items = [];
  let height = 44;
  let waits = false;

  function spacer(place, lines) {
    const row = h("tr", h("td"));
    row.style.height = `${lines * height}px`;
    show(place, lines > 0 && row);
  }

  function draw() {
    waits = false;
    if (signal.aborted) return;
    const first = Math.max(0, Math.floor(-element.getBoundingClientRect().top / height) - SPARE);
    const last = Math.min(items.length, first + Math.ceil(innerHeight / height) + 2 * SPARE);
    // What has the focus keeps it, although its row is made anew.
    const focused = body.contains(document.activeElement) && document.activeElement.getAttribute("href");
    show(body, items.slice(first, last).map((item, at) =>
      h("tr", { "aria-rowindex": first + at + 2 }, cells(item).map((cell, column) => h("td", { class: names[column] }, cell)))));
    spacer(before, first);
    spacer(after, items.length - last);
    if (focused) body.querySelector(`[href="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    if (last >= items.length - SPARE) nearEnd();
  }

  function soon() {
    if (!waits) requestAnimationFrame(draw);
    waits = true;
  }
  addEventListener("scroll", soon, { passive: true, signal });
  addEventListener("resize", soon, { signal });
  function update(list) {
    items = list;
    element.setAttribute("aria-rowcount", list.length + 1);
    soon();
  }
  return { element, update };
}
