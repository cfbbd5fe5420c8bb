// What a job is doing, in a line and a bar, and its pictures as they come to be.

import { ENDED, apply, call, jobPath } from "./api.js";
import { announce, badge, button, count, h, seconds, show } from "./dom.js";

const DOING = { dispatcher: "Checking the job", segmenter: "Finding the subject", encoder: "Reading the subject",
  sampler: "Making the pictures" };

export const pictureCount = (request) => request?.seeds?.length ?? request?.seeds?.count ?? 1;

function words({ status, stage, queue, progress, message, error, created, finished }) {
  if (message && status === "running") return `An attempt failed, another follows: ${message}`;
  if (status === "queued") {
    const place = queue?.ahead > 0 ? `${count(queue.ahead)} ahead` : "Next in line";
    return queue?.seconds ? `${place}, about ${seconds(queue.seconds)}` : place;
  }
  const doing = DOING[progress ? "sampler" : stage] ?? "At work";
  if (status === "running") return progress ? `${doing}: step ${progress.scale} of ${progress.scales}` : doing;
  if (status === "parked") return "Set aside after repeated faults, until an operator has looked at it";
  return error?.message ?? (finished ? `Took ${seconds((Date.parse(finished) - Date.parse(created)) / 1000)}` : "");
}

/** Says quarters and changes of state to screen readers, and nothing in between. */
function progressLine() {
  const [state, text, bar] = [h("span"), h("span"), h("progress", { "aria-label": "Progress" })];
  let said = "";
  function update(job) {
    const { status, progress } = job;
    const share = status === "running" && progress ? progress.scale / progress.scales : 0;
    show(state, badge(status));
    show(text, words(job));
    bar.hidden = status !== "queued" && status !== "running";
    if (share > 0) bar.value = share;
    else bar.removeAttribute("value");
    const quarter = 25 * Math.floor(4 * share);
    const now = quarter > 0 ? `${quarter} percent` : `${status}: ${status === "queued" ? "" : text.textContent}`;
    if (now !== said) announce(now);
    said = now;
  }
  return { element: h("div.line", state, text, bar), update };
}

/** The place of one picture; what is asked for is shown in this order. */
class Frame {
  shown = -1;
  queue = Promise.resolve();
  place = h("div.shot");
  caption = h("figcaption");
  element = h("figure", this.place, this.caption);

  /** Shows a picture once it is loaded. `rank` is its scale, infinite for the finished one. */
  show(src, alt, rank) {
    if (rank <= this.shown) return;
    this.shown = rank;
    const image = h("img", { src, alt, "data-scale": rank });
    // Where a preview is gone, the next picture takes its place.
    this.queue = this.queue.then(() => image.decode()).then(() => show(this.place, image)).catch(() => {});
  }

  finish({ id, prompt }, { url, seed, width, height, safety }) {
    const isWithheld = safety?.verdict === "withheld";
    const src = `${url}?redirect=false`;
    if (isWithheld) show(this.place, `Withheld${safety.reason ? `: ${safety.reason}` : ""}`);
    else this.show(src, prompt, Infinity);
    show(this.caption, `Seed ${seed}`, !isWithheld &&
      [h("span", `${width} × ${height}`), h("a", { href: src, download: `${id}-${seed}` }, "Download")]);
  }
}

function pictures(expected) {
  const element = h("div.pictures");
  const frames = [];
  const frame = (index) => {
    for (; frames.length <= index; element.append(frames.at(-1).element)) frames.push(new Frame());
    return frames[index];
  };
  function update({ status, previews = [], images, ...job }) {
    const isOver = ENDED.includes(status);
    if (!isOver) frame(expected - 1);
    // A job that runs again begins with its first scale.
    if (status === "queued") for (const one of frames) one.shown = -1;
    if (!isOver) for (const { image, scale, url } of previews) frame(image).show(url, `Preview of picture ${image + 1}`, scale);
    images?.forEach((picture, index) => frame(index).finish(job, picture));
    element.hidden = isOver && status !== "completed";
  }
  return { element, update };
}

/** Follows a job to its end; `changed` is called whenever all of it is known anew. */
export function follow(job, expected, visit, changed = () => {}) {
  const [line, frames] = [progressLine(), pictures(expected)];
  const ask = (verb) => async () => update(await call("POST", jobPath(job.id, verb)));
  const [cancel, again] = [button("", "Cancel", ask("/cancel")), button("", "Again", ask("/again"))];
  let close = null;
  function update(data) {
    apply(job, data);
    line.update(job);
    frames.update(job);
    cancel.hidden = ENDED.includes(job.status);
    again.hidden = job.status === "completed" || !(cancel.hidden || job.status === "parked");
    if (!cancel.hidden) close ??= visit.listen(jobPath(job.id, "/events"), update);
    else close = close?.();
    if (data.id) changed();
  }
  update({ ...job });
  let turn = 0;
  // The place in line comes with the job only; and a stream may be dead without being closed.
  visit.repeat(2000, async () => {
    if (job.status === "queued" || (!cancel.hidden && ++turn % 10 === 0)) update(await visit.get(jobPath(job.id)));
  });
  return { line: line.element, buttons: [cancel, again], pictures: frames.element };
}
