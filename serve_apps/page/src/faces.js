// Face detection in the browser: YuNet's outputs to boxes, as in OpenCV's FaceDetectorYN and fer/faces/detectors.py.

import { overlap, shared, size } from "./boxes.js";
import { resize } from "./preprocess.js";

const MIN_SCORE = 0.6;
const MAX_OVERLAP = 0.3; // intersection over union from which two boxes of one look are one face
const STRIDES = [8, 16, 32];
const MAX_SIDE = 1280; // of the first look
const LIVE_SIDE = 320; // the same, for frames that must be read in time
const CLOSE_SIDE = 128; // of the second look, for faces that fill the image
const SAME_FACE = 0.5; // overlap, as a part of the smaller box, from which boxes of both looks are one face
const DETAIL = 0.1; // score by which a box of the second look must be surer
const CROP_SIDE = 128; // a small, nearly square image is a face crop
const CROP_RATIO = 1.3;
const MIN_FILL = 0.4; // side of a face that fills an image, as a part of the image's shorter side
const GUIDE = 0.6; // side of the face guide, as a part of the image's shorter side

/** The faces in an image, the largest first. `run` computes YuNet: (values, width, height) to its outputs by name. */
export async function detect(image, run, live) {
  const longest = Math.max(image.width, image.height);
  const full = await look(image, Math.min(1, (live ? LIVE_SIDE : MAX_SIDE) / longest), run);
  const faces = merge(full, await look(image, CLOSE_SIDE / longest, run));
  if (faces.length || !isCrop(image)) return faces;
  const weaker = await look(image, CLOSE_SIDE / longest, run, MIN_SCORE / 2);
  const fills = ({ w, h }) => Math.max(w, h) >= MIN_FILL * Math.min(image.width, image.height);
  return weaker.some(fills) ? [whole(image)] : [];
}

/** Without a detector: the whole of a face crop, else a square in the middle, where the page shows an oval. */
export function guide(image) {
  if (isCrop(image)) return whole(image);
  const { width, height } = image;
  const side = GUIDE * Math.min(width, height);
  const [x, y] = [(width - side) / 2, (height - side) / 2];
  return { x, y, w: side, h: side, guided: true };
}

const whole = ({ width, height }) => ({ x: 0, y: 0, w: width, h: height, whole: true });

/** Whether an image is small and nearly square, as those of cropped faces are. */
function isCrop({ width, height }) {
  return Math.max(width, height) <= Math.min(CROP_SIDE, CROP_RATIO * Math.min(width, height));
}

async function look(image, scale, run, minScore = MIN_SCORE) {
  const width = Math.max(1, Math.round(image.width * scale));
  const height = Math.max(1, Math.round(image.height * scale));
  const padded = { width: Math.ceil(width / 32) * 32, height: Math.ceil(height / 32) * 32 };
  const rgb = resize(image, { x: 0, y: 0, width: image.width, height: image.height }, width, height);
  const outputs = await run(planes(rgb, width, height, padded), padded.width, padded.height);
  return distinct(decode(outputs, padded, minScore)).map((face) => clipped(face, scale, image));
}

/** RGB bytes to the network's input: planes of blue, green and red, with zeros to the right and below. */
function planes(rgb, width, height, padded) {
  const area = padded.width * padded.height;
  const values = new Float32Array(3 * area);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = 3 * (y * width + x);
      const to = y * padded.width + x;
      for (let channel = 0; channel < 3; channel++) values[channel * area + to] = rgb[from + 2 - channel];
    }
  }
  return values;
}

/** Boxes {x, y, w, h, score} in pixels of the padded image. */
function decode(outputs, { width }, minScore) {
  const faces = [];
  for (const stride of STRIDES) {
    const [cls, obj, box] = ["cls", "obj", "bbox"].map((name) => outputs[`${name}_${stride}`]);
    const columns = width / stride;
    for (let i = 0; i < cls.length; i++) {
      const score = Math.sqrt(unit(cls[i]) * unit(obj[i]));
      if (score < minScore) continue;
      const [dx, dy, dw, dh] = box.subarray(4 * i, 4 * i + 4);
      const [w, h] = [Math.exp(dw) * stride, Math.exp(dh) * stride];
      const [middle, centre] = [((i % columns) + dx) * stride, (Math.floor(i / columns) + dy) * stride];
      faces.push({ x: middle - w / 2, y: centre - h / 2, w, h, score });
    }
  }
  return faces;
}

const unit = (value) => Math.min(Math.max(value, 0), 1);

/** Non-maximum suppression: of boxes that overlap, the surest. */
function distinct(faces) {
  const kept = [];
  for (const face of faces.sort((a, b) => b.score - a.score)) {
    if (kept.every((other) => overlap(face, other) <= MAX_OVERLAP)) kept.push(face);
  }
  return kept;
}

/** Each face of both looks once, the largest first. */
function merge(full, close) {
  const ranks = [...full.map((face) => [face, face.score]), ...close.map((face) => [face, face.score - DETAIL])];
  const faces = [];
  for (const [face] of ranks.sort((a, b) => b[1] - a[1] || size(b[0]) - size(a[0]))) {
    const same = (other) => shared(face, other) / Math.min(size(face), size(other)) >= SAME_FACE;
    if (size(face) > 0 && !faces.some(same)) faces.push(face);
  }
  return faces.sort((a, b) => size(b) - size(a));
}

function clipped({ x, y, w, h, score }, scale, image) {
  const [left, top] = [Math.max(x / scale, 0), Math.max(y / scale, 0)];
  const [right, bottom] = [Math.min((x + w) / scale, image.width), Math.min((y + h) / scale, image.height)];
  return { x: left, y: top, w: right - left, h: bottom - top, score };
}
