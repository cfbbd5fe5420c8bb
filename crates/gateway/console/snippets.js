// The same request for the shell, Python and JavaScript, with a placeholder for the key.

import { h, show } from "./dom.js";

const json = (value, indent = "") => JSON.stringify(value, null, 2).replaceAll("\n", `\n${indent}`);

// Outside of texts, Python differs from JSON in three words only.
const python = (value) => json(value, "    ").replace(/"(?:[^"\\]|\\.)*"|true|false|null/g, (part) => ({ true: "True", false: "False", null: "None" })[part] ?? part);

const WRITERS = {
  curl: (url, body) => `curl --fail-with-body ${url} \\
  -H "Authorization: Bearer $ECHOGEN_KEY" \\
  -H "Content-Type: application/json" \\
  -H "Prefer: wait=55" \\
  -d '${json(body).replaceAll("'", "'\\''")}'`,
  Python: (url, body) => `import os
import requests

answer = requests.post(
    "${url}",
    headers={"Authorization": "Bearer " + os.environ["ECHOGEN_KEY"], "Prefer": "wait=55"},
    json=${python(body)},
    timeout=60,
)
answer.raise_for_status()
print(answer.json()["status"], answer.json()["images"])`,
  JavaScript: (url, body) => `const answer = await fetch("${url}", {
  method: "POST",
  headers: {
    authorization: "Bearer " + process.env.ECHOGEN_KEY,
    "content-type": "application/json",
    prefer: "wait=55",
  },
  body: JSON.stringify(${json(body, "  ")}),
});
if (!answer.ok) throw new Error(await answer.text());
const job = await answer.json();
console.log(job.status, job.images);`,
};

/** The snippets of the request that `body` returns when asked. */
export function snippets(body) {
  const code = h("pre", { tabindex: "0", "aria-label": "Request" });
  const copy = h("button.small", { type: "button", onclick: async () => {
    const isDone = await navigator.clipboard?.writeText(code.textContent).then(() => true, () => false);
    show(copy, isDone ? "Copied" : "Select it to copy");
    setTimeout(() => show(copy, "Copy"), 2000);
  } }, "Copy");
  let language = "curl";
  const tabs = Object.keys(WRITERS).map((name) => h("button.small", { type: "button", onclick: () => {
    language = name;
    update();
  } }, name));
  function update() {
    for (const tab of tabs) tab.setAttribute("aria-pressed", tab.textContent === language);
    code.textContent = WRITERS[language](`${location.origin}/v1/jobs`, body());
  }
  update();
  return { element: h("details.card", h("summary", "This request as code"), h("div.tabs", h("div.buttons", tabs), copy), code), update };
}
