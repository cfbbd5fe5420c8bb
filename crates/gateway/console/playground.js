// Playground: a picture of a subject, a prompt, and what becomes of them.

import { ENDED, Visit, apply, call, jobPath } from "./api.js";
import { action, card, dropZone, failed, field, h, select, show } from "./dom.js";
import { pictureCount, pictures, progressLine } from "./progress.js";
import { snippets } from "./snippets.js";

const SHAPES = ["1:1", "4:3", "3:4", "3:2", "2:3", "16:9", "9:16"];
const SIZES = [["", "Default"], ["0.06M", "256 × 256"], ["0.25M", "512 × 512"], ["0.60M", "768 × 768"], ["1M", "1024 × 1024"]];
const MASKS = [["box", "Its box"], ["sam", "Its outline"], ["none", "The whole picture"]];

/** Draws a mug, for those who have no picture at hand. */
function sample() {
  const canvas = h("canvas", { width: 256, height: 256 });
  const pen = canvas.getContext("2d");
  const rect = (colour, ...place) => Object.assign(pen, { fillStyle: colour }).fillRect(...place);
  rect("#bcd6e6", 0, 0, 256, 256);
  rect("#8a5a3b", 0, 190, 256, 66);
  Object.assign(pen, { strokeStyle: "#c9372c", lineWidth: 18 }).strokeRect(150, 105, 50, 65);
  rect("#d9473b", 70, 80, 95, 130);
  rect("#f6d743", 70, 130, 95, 24);
  rect("#5b2d1e", 78, 84, 79, 12);
  return new Promise((resolve) => canvas.toBlob(resolve));
}

/** The picture of the subject, sent as soon as it is chosen. */
function subjectPicker(changed) {
  const look = h("span.look");
  const zone = dropZone("subject", "image/*", "Choose a picture of the subject, or drop one here", (file) => send(file).catch(failed), look);
  const picker = { image: null, element: h("div", zone.element, action("Use the sample", async () => send(await sample()), { class: "link" })), set };
  function set(image, src, words = "Choose another picture") {
    picker.image = image;
    show(look, src && h("img", { src, alt: "The chosen subject" }));
    show(zone.label, words);
    changed();
  }
  async function send(file) {
    failed();
    set(null, null, "Sending the picture …");
    try {
      const { image, width, height } = await call("POST", "/v1/images", { body: file, headers: { "content-type": file.type } });
      set(image, URL.createObjectURL(file), `${width} × ${height}; choose another`);
    } finally {
      if (!picker.image) set(null, null);
    }
  }
  return picker;
}

/** The fields of the form and the request that they make. What the form does not show of an earlier request stays in `base`. */
function requestForm(picker) {
  const text = (id, placeholder, maxlength = 2000) => h("input", { id, placeholder, maxlength });
  const digits = (id, value, min, max) => h("input", { id, type: "number", value, min, max, required: true });
  const prompt = h("textarea", { id: "prompt", rows: "3", maxlength: "2000", required: true, placeholder: "a mug on a table by the sea" });
  const [name, negative] = [text("name", "found in the picture", 200), text("negative")];
  const [pieces, seed, previews] = [digits("count", 1, 1, 64), digits("seed", 42, 0), digits("previews", 4, 0, 16)];
  const [shape, size] = [select("shape", SHAPES, "1:1"), select("size", SIZES, "")];
  const [lane, mask] = [select("lane", ["interactive", "standard", "bulk"], "interactive"), select("mask", MASKS, "box")];
  let base = {};
  function request() {
    const subject = { ...base.subject, image: picker.image ?? "sha256:…", name: name.value.trim() || undefined, mask: mask.value };
    const seeds = pieces.disabled ? base.seeds : { first: Number(seed.value), count: Number(pieces.value) };
    return { ...base, subject, prompt: prompt.value, negative_prompt: negative.value.trim() || undefined, seeds, lane: lane.value,
      aspect_ratio: shape.value, pixel_budget: size.value || undefined, previews: Number(previews.value) };
  }
  function choose(control, value) {
    if (![...control.options].some((option) => option.value === value)) control.append(h("option", value));
    control.value = value;
  }
  function fill({ id, tenant, again, deadline, ...old }) {
    base = old;
    prompt.value = old.prompt;
    name.value = old.subject.name ?? "";
    negative.value = old.negative_prompt ?? "";
    // A list of seeds is kept as it is.
    pieces.disabled = seed.disabled = Array.isArray(old.seeds);
    pieces.value = pictureCount(old);
    seed.value = old.seeds?.[0] ?? old.seeds?.first ?? 42;
    previews.value = old.previews ?? 0;
    choose(lane, old.lane ?? "standard");
    choose(shape, String(old.aspect_ratio ?? "1:1"));
    choose(size, old.pixel_budget ?? "");
    choose(mask, old.subject.mask ?? "box");
  }
  const element = [field("Prompt", prompt), field("Subject's name", name),
    h("div.row", field("Pictures", pieces), field("First seed", seed), field("Previews", previews)),
    h("div.row", field("Shape", shape), field("Size", size), field("Lane", lane)),
    h("details", h("summary", "More"), field("Not in the picture", negative), field("What is kept of the subject's picture", mask))];
  return { element, request, fill };
}

/** Shows a job from its submission to its end. */
function follow(job, request, view, visit) {
  const line = progressLine();
  const frames = pictures(pictureCount(request));
  const cancel = action("Cancel", async () => update(await call("POST", jobPath(job.id, "/cancel"))));
  const again = action("Again", async () => follow(await call("POST", jobPath(job.id, "/again")), request, view, visit));
  let close = () => {};
  function update(data) {
    apply(job, data);
    line.update(job);
    frames.update(job);
    const isOver = cancel.hidden = ENDED.includes(job.status);
    again.hidden = !isOver || job.status === "completed";
    if (isOver) close();
  }
  show(view, h("div.tabs", h("a", { href: `#/job/${job.id}` }, job.id), h("span.buttons", cancel, again)), line.element, frames.element);
  update(job);
  if (!ENDED.includes(job.status)) close = visit.listen(jobPath(job.id, "/events"), (kind, data) => update(data));
  // The place in line comes with the job only, not with its events.
  visit.repeat(2000, async () => job.status === "queued" && update(await visit.get(jobPath(job.id)).catch(() => ({}))));
}

export async function page({ view, visit, id }) {
  const changed = () => code?.update();
  let code;
  let following = new Visit();
  visit.signal.addEventListener("abort", () => following.abort());
  const picker = subjectPicker(changed);
  const form = requestForm(picker);
  code = snippets(form.request);
  const output = card(null, h("p.empty.tall", "The pictures appear here, scale by scale."));
  const make = h("button.primary", "Make");

  async function submit(event) {
    event.preventDefault();
    failed();
    if (!picker.image) return failed({ title: "No picture", detail: "Choose a picture of the subject first." });
    make.disabled = true;
    try {
      const request = form.request();
      const key = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16)).join("-");
      const job = await call("POST", "/v1/jobs", { json: request, headers: { "idempotency-key": key } });
      following.abort();
      following = new Visit();
      follow(job, request, output, following);
    } catch (error) {
      failed(error);
    }
    make.disabled = false;
  }

  const element = h("form.card.stack", { onsubmit: submit, oninput: changed, "aria-label": "Request" }, picker.element, form.element, h("div", make));
  element.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey && !make.disabled) element.requestSubmit();
  });
  view.append(h("div.split", element, h("div.stack", output, code.element)));
  if (!id) return;
  const { request } = await visit.get(jobPath(id));
  if (!request) return;
  form.fill(request);
  const { image } = request.subject;
  picker.set(image, image.startsWith("data:") ? image : jobPath(id, "/subject"));
}
