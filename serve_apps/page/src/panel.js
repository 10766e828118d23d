// The results beside the picture: the largest face in words and as a drawing, and bars for each face.

import { echo } from "./echo.js";
import { colour, percent } from "./labels.js";

const MAX_FACES = 12; // cards; the overlay shows every face

export class Panel {
  #cards = new Map(); // elements, by the number of the face

  constructor(root) {
    this.list = root.querySelector("#faces");
    this.summary = root.querySelector("#summary");
    this.headline = root.querySelector("#headline");
    this.subline = root.querySelector("#subline");
    const face = root.querySelector("#empty .echo").cloneNode(true); // drawn once in the page
    this.summary.querySelector(".echo").replaceChildren(...face.childNodes);
  }

  /** A message in place of results. */
  say(headline, subline = "") {
    this.draw([], [], null);
    this.headline.textContent = headline;
    this.subline.textContent = subline;
  }

  /** Faces, the largest first; `title` gives the text of a face's label. */
  draw(faces, labels, title) {
    const [main] = faces;
    echo(this.summary.querySelector(".echo"), main?.scores ?? {});
    this.summary.style.setProperty("--colour", main ? colour(main.label ?? "neutral", labels.indexOf(main.label)) : "");
    if (main) {
      this.headline.textContent = title(main);
      this.subline.textContent = faces.length === 1 ? "one face" : `the largest of ${faces.length} faces`;
    }
    const seen = new Set();
    for (const [place, face] of faces.slice(0, MAX_FACES).entries()) {
      const key = `${face.number ?? place} ${labels}`;
      seen.add(key);
      if (!this.#cards.has(key)) this.#cards.set(key, this.list.appendChild(card(labels)));
      update(this.#cards.get(key), face, face.number ?? place + 1, labels, title(face));
    }
    for (const [key, element] of this.#cards) {
      if (seen.has(key)) continue;
      element.remove();
      this.#cards.delete(key);
    }
  }
}

function card(labels) {
  const item = document.createElement("li");
  const heading = document.createElement("h3");
  heading.append(document.createElement("span"), document.createElement("small"));
  const list = document.createElement("ul");
  list.className = "bars";
  list.append(...labels.map((label, place) => bar(label, place)));
  const affect = document.createElement("p");
  affect.className = "affect";
  item.append(heading, list, affect);
  return item;
}

function bar(label, place) {
  const item = document.createElement("li");
  const [name, track, value] = ["span", "span", "output"].map((tag) => document.createElement(tag));
  name.textContent = label;
  track.className = "track";
  track.setAttribute("role", "meter");
  track.setAttribute("aria-label", label);
  track.setAttribute("aria-valuemax", "100");
  track.append(document.createElement("i"));
  item.style.setProperty("--colour", colour(label, place));
  item.append(name, track, value);
  return item;
}

function update(item, face, number, labels, title) {
  const [heading, list, affect] = item.children;
  item.style.setProperty("--colour", colour(face.label ?? "neutral", labels.indexOf(face.label)));
  heading.firstChild.textContent = `Face ${number}`;
  heading.lastChild.textContent = title;
  list.hidden = !face.scores;
  for (const [i, label] of labels.entries()) {
    const probability = face.scores?.[label] ?? 0;
    const [, track, value] = list.children[i].children;
    list.children[i].classList.toggle("top", label === face.label);
    track.setAttribute("aria-valuenow", Math.round(100 * probability));
    track.firstChild.style.setProperty("--p", probability.toFixed(3));
    value.textContent = percent(probability);
  }
  affect.hidden = face.valence == null;
  if (face.valence != null) {
    affect.textContent = `valence ${face.valence.toFixed(2)}, arousal ${face.arousal.toFixed(2)}`;
  }
}
