// What was seen in this session, as numbers only: rows for a CSV file.

const MAX_ROWS = 200_000; // the oldest go first
const COLUMNS = ["source", "seconds", "face", "x", "y", "width", "height", "label", "confidence", "uncertain"];

export class Session {
  constructor() {
    this.rows = [];
  }

  /** Add the faces of a picture or frame. `seconds` is the time in the video or since the camera started. */
  add(source, seconds, faces, model, where) {
    for (const [place, face] of faces.entries()) this.rows.push({ source, seconds, place, face, model, where });
    if (this.rows.length > MAX_ROWS) this.rows.splice(0, this.rows.length - MAX_ROWS);
  }

  /** The CSV file's text: a column for each label that occurs. */
  csv() {
    const labels = [...new Set(this.rows.flatMap((row) => Object.keys(row.face.scores ?? {})))];
    const header = [...COLUMNS, ...labels, "valence", "arousal", "model", "version", "computed"];
    return [header, ...this.rows.map((row) => values(row, labels))].map(line).join("");
  }
}

function values({ source, seconds, place, face, model, where }, labels) {
  const { x, y, w, h } = face.box;
  return [
    source,
    seconds?.toFixed(3),
    face.number ?? place + 1,
    ...[x, y, w, h],
    face.label,
    face.confidence?.toFixed(4),
    face.uncertain,
    ...labels.map((label) => face.scores?.[label]?.toFixed(4)),
    face.valence?.toFixed(4),
    face.arousal?.toFixed(4),
    model.name,
    model.version,
    where,
  ];
}

const line = (cells) => `${cells.map(quoted).join(",")}\r\n`;

/** A cell; a leading quote keeps spreadsheets from reading a file name as a formula. */
function quoted(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@\t]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
