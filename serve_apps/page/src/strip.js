// The distribution of the largest face over the last half minute, as stacked areas.

import { colour, percent, ranked } from "./labels.js";

const SECONDS = 30;
const GAP = 0.7; // seconds without the face that leave a gap

export class Strip {
  #points = []; // {seconds, scores}
  #described = 0;

  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
  }

  clear() {
    this.#points = [];
    this.#described = 0;
  }

  /** Add a distribution (null if there is no face) at a time in seconds, and draw. */
  add(seconds, scores, labels) {
    if (this.#points.at(-1)?.seconds > seconds) this.clear(); // the video was set back
    if (scores) this.#points.push({ seconds, scores });
    while (this.#points.length && this.#points[0].seconds < seconds - SECONDS) this.#points.shift();
    this.#draw(seconds, labels);
    if (Math.abs(seconds - this.#described) > 3) this.#describe(seconds);
  }

  #draw(now, labels) {
    const { canvas, context } = this;
    const { clientWidth, clientHeight } = canvas;
    const [width, height] = [clientWidth, clientHeight].map((side) => Math.round(side * devicePixelRatio));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    context.clearRect(0, 0, width, height);
    for (const run of runs(this.#points)) {
      const across = run.map((point) => width * (1 - (now - point.seconds) / SECONDS));
      let below = run.map(() => 0);
      for (const [place, label] of labels.entries()) {
        const above = run.map((point, i) => below[i] + point.scores[label]);
        context.beginPath();
        run.forEach((_, i) => context.lineTo(across[i], height * (1 - below[i])));
        for (let i = run.length - 1; i >= 0; i--) context.lineTo(across[i], height * (1 - above[i]));
        context.fillStyle = colour(label, place);
        context.fill();
        below = above;
      }
    }
  }

  #describe(seconds) {
    this.#described = seconds;
    const sums = {};
    const part = 1 / this.#points.length;
    for (const { scores } of this.#points) {
      for (const [label, value] of Object.entries(scores)) sums[label] = (sums[label] ?? 0) + part * value;
    }
    const parts = ranked(sums).slice(0, 3).map((label) => `${label} ${percent(sums[label])}`);
    this.canvas.setAttribute("aria-label", `The last ${SECONDS} seconds on average: ${parts.join(", ") || "no face"}`);
  }
}

/** Points without a gap between them. */
function runs(points) {
  const found = [];
  for (const point of points) {
    const run = found.at(-1);
    if (run && point.seconds - run.at(-1).seconds < GAP) run.push(point);
    else found.push([point]);
  }
  return found;
}
