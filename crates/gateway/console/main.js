// Starts the console: the session, the header, the page of the address after `#`, and the keyboard.

import { Visit, call } from "./api.js";
import { announce, dialog, failed, h, icon, show } from "./dom.js";

// Name, title, module, key after `g`, and the scope that it needs.
const PAGES = [
  ["playground", "Playground", () => import("./playground.js"), "p"],
  ["jobs", "Jobs", () => import("./jobs.js"), "j"],
  ["batches", "Batches", () => import("./batches.js"), "b"],
  ["usage", "Usage", () => import("./usage.js"), "u"],
  ["queues", "Queues", () => import("./operators.js"), "q", "admin"],
  ["dead-letters", "Dead letters", () => import("./dead_letters.js"), "d", "admin"],
  ["workers", "Workers", () => import("./operators.js"), "w", "admin"],
  ["tenants", "Tenants", () => import("./operators.js"), "t", "admin"],
];

const main = document.getElementById("main");
const bar = document.getElementById("bar");
let session = null;
let visit = new Visit();
let waitsForKey = false;

const mine = () => PAGES.filter(([, , , , scope]) => !scope || session.scopes.includes(scope));

function header() {
  const links = mine().map(([name, title]) => h("li", h("a", { href: `#/${name}` }, icon(name), title)));
  show(bar, h("a.brand", { href: "#/playground" }, "EchoGen"), h("nav", { "aria-label": "Pages" }, h("ul", links)),
    h("div.who", h("span.tenant", session.tenant), h("button.bare", { type: "button", onclick: shortcuts, "aria-label": "Keyboard shortcuts" }, "?"),
      h("button.bare", { type: "button", onclick: signOut }, icon("out"), "Sign out")));
  bar.hidden = false;
}

async function signOut() {
  await call("DELETE", "/v1/session").catch(() => {});
  signIn();
}

/** Shows the sign-in page. The address stays, so that one returns to where one was. */
function signIn() {
  visit.abort();
  session = null;
  bar.hidden = true;
  document.title = "Sign in · EchoGen";
  const key = h("input", { id: "key", type: "password", autocomplete: "off", required: true, placeholder: "eg_…", "aria-describedby": "kept" });
  const submit = (event) => {
    event.preventDefault();
    failed();
    call("POST", "/v1/session", { json: { key: key.value.trim() } }).then(start).catch((error) => {
      failed(error.status === 401 ? { title: "This key is not accepted", detail: "Is it whole, and not expired?" } : error);
      key.select();
    });
  };
  show(main, h("div.sign-in", h("h1", "EchoGen"), h("form.card", { onsubmit: submit }, h("label", { for: "key" }, "API key"), key,
    h("p.hint", { id: "kept" }, "It is exchanged for a session cookie and not kept in the browser."), h("div", { id: "errors" }),
    h("button.primary", "Sign in"))));
  key.focus();
}

async function start() {
  session = await call("GET", "/v1/session");
  header();
  await route();
}

const begin = () => start().catch((error) => {
  if (error.status === 401) return;
  show(main, h("h1", "EchoGen"), h("div", { id: "errors" }), h("button", { type: "button", onclick: begin }, "Try again"));
  failed(error);
});

async function route(moved) {
  if (!session) return;
  visit.abort();
  const here = visit = new Visit();
  const [path, query] = location.hash.slice(2).split("?");
  const [name, id = ""] = (path || "playground").split("/").map(decodeURIComponent);
  const page = mine().find(([known]) => known === (name === "job" ? "jobs" : name));
  for (const link of bar.querySelectorAll("li a")) {
    link.toggleAttribute("aria-current", link.hash === `#/${page?.[0]}`);
    if (link.hasAttribute("aria-current")) {
      link.setAttribute("aria-current", "page");
      link.scrollIntoView({ block: "nearest", inline: "center" });
    }
  }
  const title = page?.[1] ?? "No such page";
  document.title = `${title} · EchoGen`;
  announce("");
  const heading = h("h1", { tabindex: "-1" }, title);
  const view = h("div.stack", heading, h("div", { id: "errors" }));
  show(main, view);
  scrollTo(0, 0);
  try {
    const module = page && await (name === "job" ? import("./job.js") : page[2]());
    if (module && !here.signal.aborted) await module.page({ view, heading, visit: here, name, id, query: new URLSearchParams(query) });
  } catch (error) {
    if (!here.signal.aborted) failed(error);
    if (!error.status && error.name !== "AbortError") console.error(error);
  }
  // The first page leaves the focus to the browser; later ones begin at their heading, unless a field took it.
  if (moved && !here.signal.aborted && !view.contains(document.activeElement)) heading.focus({ preventScroll: true });
}

function shortcuts() {
  const keys = [...mine().map(([, title, , key]) => [`g ${key}`, title]), ["/", "Search jobs"], ["Ctrl Enter", "Make the pictures"],
    ["?", "This list"], ["Esc", "Close a dialog"]];
  dialog("Keyboard shortcuts", null, "Close", h("dl.facts", keys.map(([key, what]) => [h("dt", key.split(" ").map((one) => h("kbd", one))), h("dd", what)])));
}

function pressed(event) {
  if (!session || event.target.closest?.("input, textarea, select, dialog") || event.ctrlKey || event.metaKey || event.altKey) return;
  const page = waitsForKey && mine().find(([, , , key]) => key === event.key);
  waitsForKey = event.key === "g";
  if (page) location.hash = `#/${page[0]}`;
  if (event.key === "?") shortcuts();
  if (event.key === "/") {
    event.preventDefault();
    const search = document.getElementById("search");
    if (search) search.focus();
    else location.hash = "#/jobs?search=";
  }
}

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", route);
addEventListener("keydown", pressed);
// Several requests may find it at once; what is typed into the form stays.
addEventListener("signed-out", () => document.getElementById("key") ?? signIn());
begin();
