// The picture or video with what was found in it: boxes, labels and small bars, placed in parts of the picture's size.

import { colour, percent, ranked } from "./labels.js";

const BARS = 3; // beside a face, of the most probable labels
const MAX_BARRED = 4; // faces with bars; of more, only the labels are shown
const RIGHT = 0.72; // where a face may end, as a part of the picture's width, for its bars to be on its right

export class Overlay {
  #boxes = new Map(); // elements, by the number of the face

  constructor(root) {
    this.root = root;
  }

  /** Draw faces over a picture of a size in pixels. `title` gives the text of a face's label. */
  draw(faces, { width, height, mirrored }, labels, title) {
    this.root.classList.toggle("crowded", faces.length > MAX_BARRED);
    const seen = new Set();
    for (const [place, face] of faces.entries()) {
      const key = face.number ?? place;
      seen.add(key);
      if (!this.#boxes.has(key)) this.#boxes.set(key, this.root.appendChild(element()));
      const box = this.#boxes.get(key);
      const { x, y, w, h } = face.box;
      const left = (mirrored ? width - x - w : x) / width;
      position(box, { x: left, y: y / height, w: w / width, h: h / height });
      box.classList.toggle("whole", face.whole_image);
      box.classList.toggle("guided", Boolean(face.guided));
      box.classList.toggle("high", y / height < 0.07);
      box.classList.toggle("inside", w / width > RIGHT);
      box.classList.toggle("before", left + w / width > RIGHT);
      box.style.setProperty("--colour", colour(face.label ?? "neutral", labels.indexOf(face.label)));
      box.style.setProperty("--on-colour", contrasting(box.style.getPropertyValue("--colour")));
      box.querySelector(".tag").textContent = title(face);
      bars(box.querySelector(".mini"), face.scores ?? {}, labels);
    }
    for (const [key, box] of this.#boxes) {
      if (seen.has(key)) continue;
      box.remove();
      this.#boxes.delete(key);
    }
  }

  clear() {
    this.#boxes.clear();
    this.root.replaceChildren();
  }
}

function element() {
  const box = document.createElement("div");
  const [tag, mini] = ["tag", "mini"].map((name) => Object.assign(document.createElement("div"), { className: name }));
  box.className = "face";
  box.append(tag, mini);
  return box;
}

function position(element, parts) {
  for (const [name, part] of Object.entries(parts)) {
    element.style.setProperty(`--${name}`, `${(100 * part).toFixed(2)}%`);
  }
}

function bars(list, scores, labels) {
  const best = ranked(scores).slice(0, BARS);
  while (list.children.length > best.length) list.lastChild.remove();
  while (list.children.length < best.length) list.append(document.createElement("span"));
  for (const [i, label] of best.entries()) {
    const bar = list.children[i];
    bar.textContent = `${label} ${percent(scores[label])}`;
    bar.style.setProperty("--p", scores[label].toFixed(3));
    bar.style.setProperty("--colour", colour(label, labels.indexOf(label)));
  }
}

/** The colour of text on a colour: dark or light. */
function contrasting(hex) {
  const [red, green, blue] = [1, 3, 5].map((from) => parseInt(hex.slice(from, from + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 120 ? "#15181d" : "#ffffff";
}
