// Playground: a picture of a subject, a prompt, and what becomes of them.

import { Visit, call, jobPath } from "./api.js";
import { button, card, dropZone, field, form, h, select, show } from "./dom.js";
import { follow, pictureCount } from "./progress.js";
import { snippets } from "./snippets.js";

const LANES = ["interactive", "standard", "bulk"];
const SHAPES = "1:1 4:3 3:4 3:2 2:3 16:9 9:16".split(" ");
const SIZES = [["", "Default"], ["0.06M", "256 × 256"], ["0.25M", "512 × 512"], ["0.60M", "768 × 768"], ["1M", "1024 × 1024"]];
const MASKS = [["box", "Its box"], ["sam", "Its outline"], ["none", "The whole picture"]];

/** A drawn mug, as a picture. */
function sample() {
  const canvas = h("canvas", { width: 256, height: 256 });
  const pen = canvas.getContext("2d");
  const parts = ["#bcd6e6 0 0 256 256", "#8a5a3b 0 190 256 66", "#c9372c 150 105 60 80", "#bcd6e6 150 122 42 46",
    "#d9473b 70 80 95 130", "#f6d743 70 130 95 24"];
  for (const part of parts) {
    const [colour, ...place] = part.split(" ");
    pen.fillStyle = colour;
    pen.fillRect(...place);
  }
  return new Promise((resolve) => canvas.toBlob(resolve));
}

/** The picture of the subject, sent as soon as it is chosen. */
function subjectPicker(changed) {
  const look = h("span.look");
  const zone = dropZone("subject", "image/*", "Choose a picture of the subject, or drop one here", send, look);
  const element = h("div", zone.element, button(".link", "Use the sample", async () => send(await sample())));
  const picker = { element, set };
  function set(image, src, words = "Choose another picture") {
    picker.image = image;
    show(look, src && h("img", { src, alt: "The chosen subject" }));
    show(zone.label, words);
    changed();
  }
  async function send(file) {
    set(null, null, "Sending the picture …");
    try {
      const { image } = await call("POST", "/v1/images", { body: file, headers: { "content-type": file.type } });
      set(image, URL.createObjectURL(file));
    } finally {
      if (!picker.image) set();
    }
  }
  return picker;
}

/** The form's fields and the request that they make; what they do not show of an earlier request stays in `base`. */
function requestForm(picker) {
  const text = (id, placeholder) => h("input", { id, placeholder, maxlength: 200 });
  const digits = (id, value, min, max) => h("input", { id, type: "number", value, min, max, required: true });
  const prompt = h("textarea",
    { id: "prompt", rows: 3, maxlength: 2000, required: true, placeholder: "a mug on a table by the sea" });
  const [name, negative] = [text("name", "found in the picture"), text("negative")];
  const [number, seed, previews] = [digits("count", 1, 1, 64), digits("seed", 42, 0), digits("previews", 4, 0, 16)];
  const [shape, size, lane, mask] = [select("shape", SHAPES), select("size", SIZES), select("lane", LANES),
    select("mask", MASKS)];
  let base = {};
  function request() {
    const subject = { ...base.subject, image: picker.image ?? "sha256:…", name: name.value.trim() || undefined,
      mask: mask.value };
    const seeds = seed.disabled ? base.seeds : { first: Number(seed.value), count: Number(number.value) };
    return { ...base, subject, prompt: prompt.value, negative_prompt: negative.value.trim() || undefined, seeds,
      lane: lane.value,
      aspect_ratio: shape.value, pixel_budget: size.value || undefined, previews: Number(previews.value) };
  }
  function fill({ id, tenant, again, deadline, ...old }) {
    base = old;
    const { subject, seeds } = old;
    // A list of seeds is kept as it is.
    number.disabled = seed.disabled = Array.isArray(seeds);
    const values = [[prompt, old.prompt], [name, subject.name ?? ""], [negative, old.negative_prompt ?? ""],
      [number, pictureCount(old)],
      [seed, seeds?.[0] ?? seeds?.first ?? 42], [previews, old.previews ?? 0], [shape, String(old.aspect_ratio ?? "1:1")],
      [size, old.pixel_budget ?? ""], [lane, old.lane ?? "standard"], [mask, subject.mask ?? "box"]];
    for (const [control, value] of values) {
      control.value = value;
      if (control.selectedIndex === -1) control.append(h("option", { selected: true }, value));
    }
  }
  const element = [field(prompt), field(name, "Subject's name"),
    h("div.row", field(number, "Pictures"), field(seed, "First seed"), field(previews)),
      h("div.row", field(shape), field(size), field(lane)),
    h("details", h("summary", "More"), field(negative, "Not in the picture"),
      field(mask, "What is kept of the subject's picture"))];
  return { element, request, fill };
}

export async function page({ view, visit, id }) {
  let code, following = new Visit();
  const changed = () => code?.update();
  const picker = subjectPicker(changed);
  const fields = requestForm(picker);
  code = snippets(fields.request);
  visit.signal.addEventListener("abort", () => following.abort());
  const output = card(null, h("p.empty.tall", "The pictures appear here, scale by scale."));
  const make = h("button.primary", "Make");

  async function submit() {
    if (!picker.image) throw { title: "Choose a picture of the subject first" };
    const request = fields.request();
    make.disabled = true;
    // Whatever happens on the way, one press makes one job.
    const headers = { "idempotency-key": crypto.getRandomValues(new Uint32Array(4)).join("-") };
    const job = await call("POST", "/v1/jobs", { json: request, headers }).finally(() => (make.disabled = false));
    following.abort();
    following = new Visit();
    const parts = follow(job, pictureCount(request), following);
    show(output, h("div.between", h("a", { href: `#/job/${job.id}` }, job.id), h("span.buttons", parts.buttons)), parts.line,
      parts.pictures);
  }

  const element = form(".card.stack", { oninput: changed, "aria-label": "Request" }, submit, picker.element, fields.element,
    h("div", make));
  element.addEventListener("keydown", (event) => event.key === "Enter" && event.ctrlKey && !make.disabled &&
    element.requestSubmit());
  view.append(h("div.split", element, h("div.stack", output, code.element)));
  const { request } = id ? await visit.get(jobPath(id)) : {};
  if (!request) return;
  fields.fill(request);
  picker.set(request.subject.image, jobPath(id, "/subject"));
}
