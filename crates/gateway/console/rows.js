// A table that draws only the rows in sight, so that ten thousand of them scroll as well as ten.

import { grid, h, show } from "./dom.js";

// Pixels of a row, as in the stylesheet, and rows that are drawn beyond those in sight.
const [HEIGHT, SPARE] = [44, 8];

/** `nearEnd` is called when the last rows come into sight. */
export function rows(caption, columns, cells, signal, nearEnd) {
  const [head, row] = grid(columns);
  const [before, body, after] = [h("tbody", { "aria-hidden": "true" }), h("tbody"), h("tbody", { "aria-hidden": "true" })];
  const element = h("table.rows", { "aria-label": caption }, head, before, body, after);
  let items = [];
  let waits = false;

  function spacer(place, lines) {
    const empty = h("tr", h("td"));
    empty.style.height = `${lines * HEIGHT}px`;
    show(place, lines > 0 && empty);
  }

  function draw() {
    waits = false;
    if (signal.aborted) return;
    const first = Math.max(0, Math.floor(-element.getBoundingClientRect().top / HEIGHT) - SPARE);
    const last = Math.min(items.length, first + Math.ceil(innerHeight / HEIGHT) + 2 * SPARE);
    // What has the focus keeps it, although its row is made anew.
    const focused = body.contains(document.activeElement) && document.activeElement.getAttribute("href");
    show(body, items.slice(first, last).map((item, at) => row(cells(item), first + at + 2)));
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
