// The same request for the shell, Python and JavaScript, with a placeholder for the key.

import { button, h, show } from "./dom.js";

const json = (value, indent = "") => JSON.stringify(value, null, 2).replaceAll("\n", `\n${indent}`);

// Outside of texts, Python differs from JSON in three words only.
const python = (value) =>
  json(value, "    ").replace(/"(?:[^"\\]|\\.)*"|true|false|null/g, (part) =>
  ({ true: "True", false: "False", null: "None" })[part] ?? part);

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

export function snippets(body) {
  const code = h("pre", { tabindex: "0", "aria-label": "Request" });
  const copy = button(".small", "Copy", async () => {
    await navigator.clipboard.writeText(code.textContent);
    show(copy, "Copied");
    setTimeout(() => show(copy, "Copy"), 2000);
  });
  let language = "curl";
  const tabs = Object.keys(WRITERS).map((name) => button(".small", name, () => {
    language = name;
    update();
  }));
  function update() {
    for (const tab of tabs) tab.setAttribute("aria-pressed", tab.textContent === language);
    code.textContent = WRITERS[language](`${location.origin}/v1/jobs`, body());
  }
  update();
  return { element: h("details.card", h("summary", "This request as code"), h("div.between", h("div.buttons", tabs), copy),
    code), update };
}
