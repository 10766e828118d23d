// Preprocessing and postprocessing in the browser, the same as fer/faces/box.py and fer/classifier/preprocess.py.
// An image is {data, width, height}: RGBA bytes, as ImageData.

/** The square around a box: its longer side plus `margin` of it on each side, {x, y, side}, all integers. */
export function square({ x, y, w, h }, margin) {
  const side = Math.max(1, rounded(Math.max(w, h) * (1 + 2 * margin)));
  return { x: rounded(x + w / 2 - side / 2), y: rounded(y + h / 2 - side / 2), side };
}

/**
 * A part of an image, resized to RGB bytes (height, width, 3): area averaging when shrinking, bilinear when enlarging.
 *
 * Outside the image, the edge pixels are repeated.
 */
export function resize(image, { x, y, width, height }, outWidth, outHeight) {
  const shrinking = Math.max(width, height) > Math.max(outWidth, outHeight);
  const columns = taps(x, width, outWidth, image.width, shrinking);
  const rows = taps(y, height, outHeight, image.height, shrinking);
  const cache = new Map(); // rows that were resized horizontally
  const out = new Uint8ClampedArray(outWidth * outHeight * 3); // rounds to the nearest integer
  for (let row = 0; row < outHeight; row++) {
    const sums = new Float32Array(outWidth * 3);
    for (const [source, weight] of rows[row]) {
      if (!cache.has(source)) cache.set(source, resizedRow(image, source, columns));
      const line = cache.get(source);
      for (let i = 0; i < sums.length; i++) sums[i] += weight * line[i];
    }
    for (const source of cache.keys()) if (source < rows[row][0][0]) cache.delete(source);
    out.set(sums, row * outWidth * 3);
  }
  return out;
}

function resizedRow({ data, width }, row, columns) {
  const line = new Float32Array(columns.length * 3);
  for (let column = 0; column < columns.length; column++) {
    for (const [source, weight] of columns[column]) {
      const from = (row * width + source) * 4;
      for (let channel = 0; channel < 3; channel++) line[column * 3 + channel] += weight * data[from + channel];
    }
  }
  return line;
}

/** For each output pixel along one axis, the source pixels [index, weight] that it is made of. */
function taps(start, length, outLength, limit, shrinking) {
  const scale = length / outLength;
  const inside = (index) => Math.min(Math.max(start + index, 0), limit - 1);
  return Array.from({ length: outLength }, (_, out) => {
    const pixels = shrinking ? area(out * scale, (out + 1) * scale, length) : linear((out + 0.5) * scale - 0.5, length);
    return pixels.map(([index, weight]) => [inside(index), weight]);
  });
}

function area(from, to, length) {
  const pixels = [];
  for (let index = Math.floor(from); index < Math.min(Math.ceil(to - 1e-6), length); index++) {
    pixels.push([index, (Math.min(to, index + 1) - Math.max(from, index)) / (to - from)]);
  }
  return pixels;
}

function linear(position, length) {
  const last = length - 1;
  const index = Math.floor(position);
  const weight = position - index;
  const inside = (value) => Math.min(Math.max(value, 0), last);
  return [[inside(index), 1 - weight], [inside(index + 1), weight]];
}

/** The network's input: RGB bytes, or grey ones for a network with one channel. */
export function channels(rgb, count) {
  if (count === 3) return new Uint8Array(rgb);
  const grey = new Uint8Array(rgb.length / 3);
  for (let i = 0; i < grey.length; i++) {
    grey[i] = rounded(0.299 * rgb[3 * i] + 0.587 * rgb[3 * i + 1] + 0.114 * rgb[3 * i + 2]);
  }
  return grey;
}

/** Probabilities of calibrated logits. */
export function softmax(logits, temperature) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** Rounds as Python does: halves to the even integer. */
function rounded(value) {
  const down = Math.floor(value);
  if (value - down !== 0.5) return Math.round(value);
  return down % 2 === 0 ? down : down + 1;
}
