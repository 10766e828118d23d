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
    for (let tap = rows.first[row]; tap < rows.first[row + 1]; tap++) {
      const [source, weight] = [rows.source[tap], rows.weight[tap]];
      if (!cache.has(source)) cache.set(source, resizedRow(image, source, columns));
      const line = cache.get(source);
      for (let i = 0; i < sums.length; i++) sums[i] += weight * line[i];
    }
    for (const source of cache.keys()) if (source < rows.source[rows.first[row]]) cache.delete(source);
    out.set(sums, row * outWidth * 3);
  }
  return out;
}

function resizedRow({ data, width }, row, { first, source, weight }) {
  const line = new Float32Array((first.length - 1) * 3);
  for (let column = 0; column < first.length - 1; column++) {
    let [red, green, blue] = [0, 0, 0];
    for (let tap = first[column]; tap < first[column + 1]; tap++) {
      const from = (row * width + source[tap]) * 4;
      red += weight[tap] * data[from];
      green += weight[tap] * data[from + 1];
      blue += weight[tap] * data[from + 2];
    }
    line[3 * column] = red;
    line[3 * column + 1] = green;
    line[3 * column + 2] = blue;
  }
  return line;
}

/** Along one axis: output pixel i is the sum of the pixels `source`, times `weight`, from first[i] to first[i + 1]. */
function taps(start, length, outLength, limit, shrinking) {
  const scale = length / outLength;
  const all = Array.from({ length: outLength }, (_, out) =>
    shrinking ? area(out * scale, (out + 1) * scale, length) : linear((out + 0.5) * scale - 0.5, length),
  );
  const first = new Int32Array(outLength + 1);
  all.forEach((pixels, out) => (first[out + 1] = first[out] + pixels.length));
  return {
    first,
    source: Int32Array.from(all.flat(), ([index]) => Math.min(Math.max(start + index, 0), limit - 1)),
    weight: Float32Array.from(all.flat(), ([, weight]) => weight),
  };
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
