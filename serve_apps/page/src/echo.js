// A small drawn face that echoes a distribution over the labels: each emotion has a pose, and they are blended.

import { emotion } from "./labels.js";

// smile: corners of the mouth, up or down; open: mouth; brow: height; tilt: inner ends of the brows, up or down;
// eyes: how far they are open; skew: one corner of the mouth.
const POSES = {
  neutral: { smile: 0.1, open: 0, brow: 0, tilt: 0, eyes: 1, skew: 0 },
  happiness: { smile: 1, open: 0.45, brow: 0.2, tilt: 0, eyes: 0.75, skew: 0 },
  surprise: { smile: 0, open: 1, brow: 1, tilt: 0.1, eyes: 1.35, skew: 0 },
  sadness: { smile: -0.8, open: 0, brow: 0.1, tilt: 0.9, eyes: 0.75, skew: 0 },
  anger: { smile: -0.5, open: 0.1, brow: -0.6, tilt: -1, eyes: 0.8, skew: 0 },
  fear: { smile: -0.5, open: 0.5, brow: 0.8, tilt: 0.8, eyes: 1.3, skew: 0 },
  disgust: { smile: -0.7, open: 0.15, brow: -0.4, tilt: -0.5, eyes: 0.55, skew: 0.5 },
  contempt: { smile: 0.1, open: 0, brow: 0, tilt: -0.2, eyes: 0.8, skew: 1 },
};

/** Draw the distribution {label: probability} with the parts of an SVG element: eyes, brows and mouth. */
export function echo(svg, scores) {
  const pose = blend(scores);
  for (const [side, x] of [["left", 36], ["right", 64]]) {
    const eye = svg.querySelector(`.eye.${side}`);
    eye.setAttribute("ry", Math.max(1, 5.5 * pose.eyes).toFixed(2));
    const inner = side === "left" ? 8 : -8;
    const height = 31 - 5 * pose.brow;
    const [outer, nose] = [height + 4 * pose.tilt, height - 4 * pose.tilt].map((value) => value.toFixed(2));
    svg.querySelector(`.brow.${side}`).setAttribute("d", `M${x - inner} ${outer}L${x + inner} ${nose}`);
  }
  svg.querySelector(".mouth").setAttribute("d", mouth(pose));
}

function mouth({ smile, open, skew }) {
  const corner = 68 - 4 * smile;
  const right = corner - 5 * skew;
  const upper = 68 + 8 * smile - 6 * open;
  const lower = 68 + 8 * smile + 18 * open;
  const width = 17 - 5 * open * (1 - Math.max(smile, 0));
  const [from, to] = [50 - width, 50 + width].map((value) => value.toFixed(2));
  const [a, b, c, d] = [corner, upper, right, lower].map((value) => value.toFixed(2));
  return `M${from} ${a}Q50 ${b} ${to} ${c}Q50 ${d} ${from} ${a}Z`;
}

function blend(scores) {
  const pose = { ...POSES.neutral };
  for (const [label, probability] of Object.entries(scores)) {
    const target = POSES[emotion(label)] ?? POSES.neutral;
    for (const part of Object.keys(pose)) pose[part] += probability * (target[part] - POSES.neutral[part]);
  }
  return pose;
}
