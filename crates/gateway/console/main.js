// Starts the console: the session, the header, the page of the address after `#`, and the keyboard.

import { Visit, call } from "./api.js";
import { button, byId, dialog, failed, form, h, icon, show } from "./dom.js";

// Name, title, key after `g`, and the scope and the module where they are others.
const PAGES = [
  ["playground", "Playground", "p"], ["jobs", "Jobs", "j"], ["batches", "Batches", "b"], ["usage", "Usage", "u"],
  ["queues", "Queues", "q", "admin", "operators"], ["dead-letters", "Dead letters", "d", "admin", "dead_letters"],
  ["workers", "Workers", "w", "admin", "operators"], ["tenants", "Tenants", "t", "admin", "operators"],
];

const [main, bar] = ["main", "bar"].map(byId);
let session = null;
let visit = new Visit();
let waitsForKey = false;

const mine = () => PAGES.filter(([, , , scope]) => !scope || session.scopes.includes(scope));

function header() {
  const links = mine().map(([name, title]) => h("li", h("a", { href: `#/${name}` }, icon(name), title)));
  show(bar, h("a.brand", { href: "#/playground" }, "EchoGen"), h("nav", { "aria-label": "Pages" }, h("ul", links)),
    h("div.who", h("span.tenant", session.tenant), button(".bare", "Help", shortcuts),
      button(".bare", "Sign out", () => call("DELETE", "/v1/session").then(signIn))));
  bar.hidden = false;
}

/** Shows the sign-in page. The address stays, so that one returns to where one was. */
function signIn() {
  visit.abort();
  session = null;
  bar.hidden = true;
  document.title = "Sign in · EchoGen";
  const key = h("input", { id: "key", type: "password", autocomplete: "off", required: true, placeholder: "eg_…" });
  const submit = () => call("POST", "/v1/session", { json: { key: key.value.trim() } }).then(start).catch((error) => {
    key.select();
    throw error.status === 401 ? { title: "This key is not accepted", detail: "Is it whole, and not expired?" } : error;
  });
  show(main, h("div.sign-in", h("h1", "EchoGen"), form(".card.stack", {}, submit, h("label", { for: "key" }, "API key"), key,
    h("p.hint", "It is exchanged for a session cookie and not kept in the browser."), h("div", { id: "errors" }),
    h("button.primary", "Sign in"))));
  key.focus();
}

async function start() {
  session = await call("GET", "/v1/session");
  header();
  await route();
}

async function route(moved) {
  if (!session) return;
  visit.abort();
  const here = visit = new Visit();
  const [path, query] = location.hash.slice(2).split("?");
  const [name, id = ""] = (path || "playground").split("/").map(decodeURIComponent);
  const page = mine().find(([known]) => known === (name === "job" ? "jobs" : name));
  for (const link of bar.querySelectorAll("li a")) {
    const isHere = link.hash === `#/${page?.[0]}`;
    link.ariaCurrent = isHere ? "page" : null;
    if (isHere) link.scrollIntoView({ block: "nearest", inline: "center" });
  }
  const title = page?.[1] ?? "No such page";
  document.title = `${title} · EchoGen`;
  const heading = h("h1", { tabindex: "-1" }, title);
  const view = h("div.stack", heading, h("div", { id: "errors" }));
  show(main, view);
  scrollTo(0, 0);
  // The first page leaves the focus to the browser; later ones begin at their heading, unless a field takes it.
  if (moved) heading.focus({ preventScroll: true });
  if (!page) return;
  const module = await import(`./${name === "job" ? name : page[4] ?? name}.js`);
  if (!here.signal.aborted) await module.page({ view, heading, visit: here, name, id,
    query: new URLSearchParams(query) }).catch(failed);
}

function shortcuts() {
  const keys = [...mine().map(([, title, key]) => [`g ${key}`, title]), ["/", "Search jobs"],
    ["Ctrl Enter", "Make the pictures"], ["?", "This list"]];
  dialog("Keyboard shortcuts", null, "Close",
    h("dl.facts", keys.map(([key, what]) => [h("dt", key.split(" ").map((one) => h("kbd", one))), h("dd", what)])));
}

function pressed(event) {
  if (!session || event.target.closest?.("input, textarea, select, dialog") || event.ctrlKey || event.metaKey ||
    event.altKey) return;
  const page = waitsForKey && mine().find(([, , key]) => key === event.key);
  waitsForKey = event.key === "g";
  if (page) location.hash = `#/${page[0]}`;
  if (event.key === "?") shortcuts();
  if (event.key === "/") {
    event.preventDefault();
    if (byId("search")) byId("search").focus();
    else location.hash = "#/jobs?search=";
  }
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", route);
addEventListener("keydown", pressed);
// Several requests may find it at once; what is typed into the form stays.
addEventListener("signed-out", () => byId("key") ?? signIn());
start().catch((error) => {
  if (error.status === 401) return;
  signIn();
  failed(error);
});
