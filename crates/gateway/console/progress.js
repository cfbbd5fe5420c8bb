// What a job is doing, in a line and a bar, and its pictures as they come to be.

import { ENDED } from "./api.js";
import { announce, badge, count, h, seconds, show } from "./dom.js";

const DOING = { dispatcher: "Checking the job", segmenter: "Finding the subject", encoder: "Reading the subject", sampler: "Making the pictures" };

/** How many pictures a request asks for. */
export const pictureCount = (request) => request?.seeds?.length ?? request?.seeds?.count ?? 1;

/** The share of its scales that a job at work has done. */
const share = ({ status, progress }) => (status === "running" && progress?.scales ? progress.scale / progress.scales : 0);

function words(job) {
  const { queue, progress, message } = job;
  if (message) return `An attempt failed, another follows: ${message}`;
  if (job.status === "queued") {
    const place = queue?.ahead > 0 ? `${count(queue.ahead)} ahead` : "Next in line";
    return queue?.seconds ? `${place}, about ${seconds(queue.seconds)}` : place;
  }
  if (job.status === "running") {
    const doing = DOING[job.stage] ?? "At work";
    return progress?.scales ? `${doing}: scale ${progress.scale} of ${progress.scales}` : doing;
  }
  if (job.status === "parked") return "Set aside after repeated faults; it goes on once an operator has looked at it";
  return job.error?.message ?? (job.finished ? `Took ${seconds((Date.parse(job.finished) - Date.parse(job.created)) / 1000)}` : "");
}

/** A state line with a bar. Quarters and changes of state are said to screen readers, and nothing in between. */
export function progressLine() {
  const [state, text] = [h("span"), h("span")];
  const bar = h("progress", { "aria-label": "Progress" });
  let status = null;
  let quarter = 0;
  function update(job) {
    show(state, badge(job.status));
    text.textContent = words(job);
    bar.hidden = job.status !== "queued" && job.status !== "running";
    if (share(job) > 0) bar.value = share(job);
    else bar.removeAttribute("value");
    const reached = Math.floor(4 * share(job));
    if (job.status !== status) announce(`${job.status}: ${text.textContent}`);
    else if (reached > quarter) announce(`${25 * reached} percent`);
    quarter = reached;
    status = job.status;
  }
  return { element: h("div.progress-line", state, text, bar), update };
}

/** The place of one picture. What it shows follows in the order in which it was asked for. */
class Frame {
  shown = -1;
  queue = Promise.resolve();
  place = h("div.shot.waiting");
  caption = h("figcaption");
  element = h("figure", this.place, this.caption);

  /** Shows a picture once it is loaded; the one before stays until then. `rank` is its scale; the finished one's is infinite. */
  show(src, alt, rank) {
    if (rank <= this.shown) return;
    this.shown = rank;
    const image = h("img", { src, alt, "data-scale": rank });
    // A preview lives for ten minutes only: where one is gone, the next picture takes its place.
    this.queue = this.queue.then(() => image.decode()).then(() => {
      show(this.place, image);
      this.place.classList.remove("waiting");
    }).catch(() => {});
  }

  finish({ id, prompt }, { url, seed, width, height, safety, content_type = "image/png" }) {
    if (safety?.verdict === "withheld") show(this.place, `Withheld${safety.reason ? `: ${safety.reason}` : ""}`);
    else this.show(`${url}?redirect=false`, prompt, Infinity);
    const name = `${id}-${seed}.${content_type.slice(6)}`;
    show(this.caption, `Seed ${seed}`, width && h("span", `${width} × ${height}`),
      safety?.verdict !== "withheld" && h("a", { href: `${url}?redirect=false`, download: name }, "Download"));
  }
}

/** The pictures of a job: previews that sharpen, then the finished ones. */
export function pictures(expected) {
  const element = h("div.pictures");
  const frames = [];
  const frame = (index) => {
    for (; frames.length <= index; element.append(frames.at(-1).element)) frames.push(new Frame());
    return frames[index];
  };
  if (expected > 0) frame(expected - 1);
  function update(job) {
    const isOver = ENDED.includes(job.status);
    if (!isOver) for (const { image, scale, url } of job.previews ?? []) frame(image).show(url, `Preview of picture ${image + 1}`, scale);
    job.images?.forEach((picture, index) => frame(index).finish(job, picture));
    element.classList.toggle("ended", isOver && job.status !== "completed");
  }
  return { element, update };
}
