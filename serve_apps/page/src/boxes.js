// Boxes {x, y, w, h} of faces, in pixels.

export const size = ({ w, h }) => w * h;

/** The area of the intersection of two boxes. */
export function shared(a, b) {
  const width = Math.min(a.x + a.w, b.x + b.w) - Math.max(a.x, b.x);
  const height = Math.min(a.y + a.h, b.y + b.h) - Math.max(a.y, b.y);
  return Math.max(width, 0) * Math.max(height, 0);
}

/** Intersection over union. */
export const overlap = (a, b) => shared(a, b) / (size(a) + size(b) - shared(a, b));

/** Faces with their boxes in pixels of an image that is larger by `scale`. */
export const enlarged = (faces, scale) =>
  faces.map((face) => {
    const { x, y, w, h } = face.box;
    return { ...face, box: { x: x * scale, y: y * scale, w: w * scale, h: h * scale } };
  });
