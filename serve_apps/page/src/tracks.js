// Faces over time: a face of one frame is linked to that of the next by overlap, and its distribution is smoothed.

import { overlap } from "./boxes.js";

const MIN_OVERLAP = 0.2; // intersection over union
const FORGET_AFTER = 0.6; // seconds without the face
const SMOOTHING = 0.25; // time constant of the exponential average, in seconds

/** The average of two distributions (or numbers); `weight` is that of the newer one. */
const mix = (old, now, weight) =>
  typeof now === "number"
    ? old + weight * (now - old)
    : Object.fromEntries(Object.entries(now).map(([label, value]) => [label, mix(old[label] ?? value, value, weight)]));

export class Tracks {
  constructor() {
    this.tracks = [];
    this.count = 0;
  }

  /** The faces of a frame at `seconds`, smoothed, each with the number of its track; the largest face first. */
  update(faces, seconds) {
    this.tracks = this.tracks.filter((track) => seconds - track.seconds <= FORGET_AFTER && track.seconds <= seconds);
    const pairs = faces
      .flatMap((face) => this.tracks.map((track) => ({ face, track, score: overlap(face.box, track.face.box) })))
      .filter((pair) => pair.score >= MIN_OVERLAP)
      .sort((a, b) => b.score - a.score);
    const linked = new Map();
    for (const { face, track } of pairs) {
      if (!linked.has(face) && ![...linked.values()].includes(track)) linked.set(face, track);
    }
    return faces.map((face) => {
      const track = linked.get(face) ?? this.#start();
      track.face = track.face ? smoothed(track.face, face, seconds - track.seconds) : face;
      track.seconds = seconds;
      return { ...track.face, number: track.number };
    });
  }

  #start() {
    const track = { number: ++this.count };
    this.tracks.push(track);
    return track;
  }
}

/** The face `now`, with a distribution, label and confidence averaged over the last moments. */
function smoothed(old, now, seconds) {
  const weight = 1 - Math.exp(-seconds / SMOOTHING);
  const average = (name) => (old[name] == null || now[name] == null ? now[name] : mix(old[name], now[name], weight));
  const face = { ...now, valence: average("valence"), arousal: average("arousal") };
  if (!now.scores) return face;
  const scores = average("scores");
  const label = Object.keys(scores).reduce((best, each) => (scores[each] > scores[best] ? each : best));
  return { ...face, scores, label, confidence: scores[label] };
}
