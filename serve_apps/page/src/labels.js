// Labels: the emotion that each stands for, its colour, and RAF-DB's compound labels (as in fer/labels.py).

const SYNONYMS = {
  anger: ["angry", "mad"],
  contempt: ["contemptuous"],
  disgust: ["disgusted"],
  fear: ["afraid", "fearful", "scared"],
  happiness: ["happy", "joy", "joyful"],
  neutral: ["neutrality", "natural"],
  sadness: ["sad"],
  surprise: ["surprised"],
};

const EMOTION_OF = new Map(
  Object.entries(SYNONYMS).flatMap(([emotion, words]) => [emotion, ...words].map((word) => [word, emotion])),
);

// Colours that people with a colour vision deficiency can tell apart (Okabe & Ito, 2008); grey in place of black.
const COLOURS = {
  anger: "#d55e00",
  contempt: "#e69f00",
  disgust: "#009e73",
  fear: "#cc79a7",
  happiness: "#f0e442",
  neutral: "#b4bac2",
  sadness: "#0072b2",
  surprise: "#56b4e9",
};

const COMPOUND = [
  ["happiness", "surprise", "happily surprised"],
  ["happiness", "disgust", "happily disgusted"],
  ["sadness", "fear", "sadly fearful"],
  ["sadness", "anger", "sadly angry"],
  ["sadness", "surprise", "sadly surprised"],
  ["sadness", "disgust", "sadly disgusted"],
  ["fear", "anger", "fearfully angry"],
  ["fear", "surprise", "fearfully surprised"],
  ["anger", "surprise", "angrily surprised"],
  ["anger", "disgust", "angrily disgusted"],
  ["disgust", "surprise", "disgustedly surprised"],
];

/** The emotion that a label stands for ("happy" is "happiness"); undefined for a label of none of the eight. */
export const emotion = (label) => EMOTION_OF.get(label.trim().toLowerCase());

/** The colour of a label: that of its emotion; a label of no emotion gets one by its place. */
export function colour(label, place = 0) {
  const palette = Object.values(COLOURS);
  return COLOURS[emotion(label)] ?? palette[place % palette.length];
}

/** The labels of a distribution {label: probability}, the most probable first. */
export const ranked = (scores) => Object.keys(scores).sort((a, b) => scores[b] - scores[a]);

/** RAF-DB's compound label of the two most probable labels; null if there is none, as for fear and disgust. */
export function compound(scores) {
  const [first, second] = ranked(scores).map(emotion);
  const found = COMPOUND.find(([a, b]) => (a === first && b === second) || (a === second && b === first));
  return found ? found[2] : null;
}

/** 0.973 as "97%". */
export const percent = (value) => `${Math.round(100 * value)}%`;
