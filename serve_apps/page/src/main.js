// The page: what the controls do, and what is shown.

import { Api, Lost, setToken } from "./api.js";
import * as dialogs from "./dialogs.js";
import { OnDevice, OnServer } from "./engines.js";
import { compound, percent } from "./labels.js";
import { Overlay } from "./overlay.js";
import { Panel } from "./panel.js";
import { Pictures } from "./pictures.js";
import { Player } from "./player.js";
import { Session } from "./session.js";
import { Strip } from "./strip.js";
import { Tracks } from "./tracks.js";

const $ = (selector) => document.querySelector(selector);
const ANNOUNCE = 3000; // milliseconds between two announcements to screen readers

const api = new Api(async () => setToken(await dialogs.askToken()));
const engines = { server: new OnServer(api) };
let engine = engines.server;
const session = new Session();
const overlay = new Overlay($("#overlay"));
const panel = new Panel(document);
const strip = new Strip($("#strip"));
const pictures = new Pictures($("#thumbnails"), () => engine, showPicture, readPicture);
const player = new Player($("#video"), () => engine, showFrame, frameFailed);
let tracks = new Tracks();
let shown = null; // {faces, labels, size}: what is on the stage, to draw it again

// -- what is shown ---------------------------------------------------------------------------------------------------

function title(face) {
  if (face.uncertain) return "uncertain";
  if (!face.scores) return face.valence == null ? "face" : `valence ${face.valence.toFixed(2)}`;
  return ($("#compound").checked && compound(face.scores)) || `${face.label} ${percent(face.confidence)}`;
}

function showModel(model) {
  $("#model").textContent = $("#models").title = `${model.name}, version ${model.version}`;
}

function draw(faces, labels, size) {
  shown = { faces, labels, size };
  overlay.draw(faces, size, labels, title);
  panel.draw(faces, labels, title);
  $("#save").disabled = session.rows.length === 0;
}

function stage(kind, size) {
  $("#empty").hidden = true;
  $("#frame").hidden = false;
  $("#picture").hidden = kind !== "picture";
  $("#video").hidden = kind === "picture";
  $("#frame").classList.toggle("mirrored", kind === "camera");
  $("#frame").style.setProperty("--ratio", size.width / size.height);
  document.body.classList.toggle("live", kind !== "picture");
  $("#history").hidden = kind === "picture";
  $("#pause").hidden = kind === "picture";
  $("#camera").setAttribute("aria-pressed", String(kind === "camera"));
  if (kind === "picture") $("#rate").textContent = "";
}

async function showPicture(item) {
  player.stop();
  engine.rest();
  overlay.clear();
  const image = $("#picture");
  image.src = item.url;
  image.alt = item.file.name;
  const readable = await image.decode().then(() => true, () => false);
  if (pictures.selected !== item) return;
  const size = { width: image.naturalWidth || 1, height: image.naturalHeight || 1 };
  stage("picture", size);
  if (!readable) return panel.say("Not a picture", `This browser can't read ${item.file.name}.`);
  if (item.error) return panel.say("No answer", item.error);
  if (!item.answer) return panel.say("Reading…", item.file.name);
  const { faces, model } = item.answer;
  if (faces.length === 0) panel.say("No face found", item.file.name);
  else draw(faces, model.labels, size);
  const count = `${faces.length} ${faces.length === 1 ? "face" : "faces"}`;
  announce(faces.length ? `${count}: ${faces.map(title).join(", ")}` : "No face found");
}

function readPicture({ file, answer, where }) {
  session.add(file.name, null, answer.faces, answer.model, where);
  showModel(answer.model);
  $("#save").disabled = session.rows.length === 0;
}

function showFrame({ faces, model, seconds }) {
  const found = tracks.update(faces, seconds);
  const numbered = faces.map((face, i) => ({ ...face, number: found[i].number }));
  session.add(player.source, seconds, numbered, model, engine.name);
  showModel(model);
  const { videoWidth: width, videoHeight: height } = $("#video");
  draw(found, model.labels, { width, height, mirrored: player.source === "camera" });
  if (!found.length) panel.say("No face found");
  strip.add(seconds, found[0]?.scores ?? null, model.labels);
  announceLive(found[0] ? title(found[0]) : "No face found");
  banner(null);
}

function frameFailed(error) {
  if (!(error instanceof Lost)) banner(error.message); // a lost server has a banner already
}

function banner(text, calm = false) {
  $("#banner").hidden = !text;
  $("#banner").classList.toggle("calm", calm);
  if (text) $("#banner").textContent = text;
}

let announced = { text: "", at: 0 };

function announce(text) {
  announced = { text, at: performance.now() };
  $("#announce").textContent = text;
}

function announceLive(text) {
  const name = text.replace(/ \d+%$/, "");
  if (name !== announced.text && performance.now() - announced.at > ANNOUNCE) announce(name);
}

// -- sources ---------------------------------------------------------------------------------------------------------

async function openFiles(list) {
  const files = [...list];
  const video = files.find((file) => file.type.startsWith("video/"));
  const images = files.filter((file) => !file.type.startsWith("video/"));
  if (images.length) pictures.add(images);
  else if (video) await play(() => player.file(video));
}

async function toggleCamera() {
  if (player.source !== "camera") return play(() => player.camera());
  player.stop();
  engine.rest();
  overlay.clear();
  stage("picture", { width: 1, height: 1 });
  $("#frame").hidden = true;
  $("#empty").hidden = false;
  panel.say("Camera off");
}

async function play(start) {
  pictures.leave();
  overlay.clear();
  strip.clear();
  tracks = new Tracks();
  try {
    await engine.prepare();
    await start();
  } catch (error) {
    const refused = error.name === "NotAllowedError";
    return banner(refused ? "This page may not use the camera: allow it in the browser." : error.message);
  }
  const { videoWidth: width, videoHeight: height } = $("#video");
  $("#pause").setAttribute("aria-pressed", "false");
  stage(player.source === "camera" ? "camera" : "video", { width, height });
}

function pause() {
  if (player.source) $("#pause").setAttribute("aria-pressed", String(player.toggle()));
}

function save() {
  if (!session.rows.length) return;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([session.csv()], { type: "text/csv" }));
  link.download = "ferry-session.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// -- where faces are read --------------------------------------------------------------------------------------------

const PRIVACY = {
  server: "Pictures are sent to this server, which reads them in memory and stores none.",
  device: "Pictures stay on this device: the model runs in this browser.",
  guided: "Pictures stay on this device. No face detector is offered here: what is in the oval is read.",
};

async function choose(name) {
  engine.rest();
  engine = engines[name];
  $(`#where input[value=${name}]`).checked = true;
  $("#privacy").textContent = PRIVACY[name === "device" && !engine.model.detector ? "guided" : name];
  document.body.dataset.where = name;
  try {
    if (name === "device") banner("Loading the model into this browser…", true);
    await engine.prepare();
    banner(null);
  } catch (error) {
    await choose("server");
    return banner(`The model can't run in this browser: ${error.message}`);
  }
  pictures.again();
}

function toggleWhere() {
  if (engines.device) choose(engine.name === "server" ? "device" : "server");
}

/** Use another model of the server. */
async function pick(model) {
  api.model = model;
  tracks = new Tracks();
  strip.clear();
  await choose("server");
  greet();
}

async function greet() {
  try {
    const models = await api.models();
    const chosen = models.find(({ id }) => id === api.model) ?? models[0];
    showModel(chosen);
    $("#models").hidden = models.length < 2;
    $("#model").hidden = models.length > 1;
    $("#models select").replaceChildren(...models.map(({ id }) => new Option(id, id, false, id === chosen.id)));
    const device = chosen === models[0] ? await api.deviceModel() : null;
    const known = engines.device?.model.version === device?.version || engine === engines.device;
    if (device && !known) engines.device = new OnDevice(api, device);
    const input = $("#where input[value=device]");
    input.disabled = !device;
    input.parentElement.title = device ? "The model runs in this browser" : "This server does not offer this model";
  } catch (error) {
    if (error instanceof Lost) api.back(error); // which greets again
    else banner(error.message);
  }
}

// -- start -----------------------------------------------------------------------------------------------------------

function start() {
  dialogs.themes();
  dialogs.about();
  $("#open").onclick = () => $("#files").click();
  $("#files").onchange = ({ target }) => openFiles(target.files).then(() => (target.value = ""));
  $("#camera").onclick = toggleCamera;
  $("#pause").onclick = pause;
  $("#save").onclick = save;
  $("#compound").onchange = () => shown && draw(shown.faces, shown.labels, shown.size);
  $("#where").onchange = ({ target }) => choose(target.value);
  $("#models select").onchange = ({ target }) => pick(target.value);
  dialogs.keys({
    o: () => $("#files").click(),
    c: toggleCamera,
    p: pause,
    d: toggleWhere,
    k: () => $("#compound").click(),
    s: save,
    t: () => $("#theme").click(),
    "?": () => $("#help").click(),
    ArrowLeft: () => pictures.step(-1),
    ArrowRight: () => pictures.step(1),
  });
  document.addEventListener("paste", ({ clipboardData: { files } }) => files.length && openFiles(files));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      document.body.classList.toggle("dropping", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) openFiles(event.dataTransfer.files);
    });
  }
  api.addEventListener("lost", ({ detail }) => banner(`${detail.replace("; try again", "")}. Trying again…`));
  api.addEventListener("back", () => {
    banner(null);
    greet();
  });
  setInterval(() => {
    const speed = player.speed;
    if (speed) $("#rate").textContent = `${speed.rate.toFixed(0)} answers/s, ${speed.age.toFixed(0)} ms old`;
  }, 500);
  $("#privacy").textContent = PRIVACY.server;
  greet();
}

start();
