// Where faces are read: on the server, or on this device. Both have the same methods.

import { address, upload } from "./api.js";
import { enlarged } from "./boxes.js";
import { Stream } from "./stream.js";

const FRAME = { type: "image/jpeg", quality: 0.85 };

/** Pictures go to the server; frames too, over a WebSocket if it has the live application. */
export class OnServer {
  name = "server";
  depth = 2; // frames on their way: while one is being read, the next one travels

  constructor(api) {
    this.api = api;
    this.stream = new Stream(api);
  }

  /** Whether frames go over a WebSocket is found out once. */
  async prepare() {
    this.streams ??= await fetch(address("live/healthz")).then((response) => response.ok, () => false);
  }

  async picture(file) {
    const { blob, scale } = await upload(file);
    const answer = await this.api.predict(blob);
    return { ...answer, faces: enlarged(answer.faces, 1 / scale) };
  }

  async frame(canvas) {
    const jpeg = await canvas.convertToBlob(FRAME);
    return this.streams ? this.stream.predict(jpeg) : this.api.predict(jpeg);
  }

  rest() {
    this.stream.close();
  }
}

/** The model runs in a worker of the browser; no picture leaves it. */
export class OnDevice {
  name = "device";
  depth = 1;
  #calls = new Map();
  #count = 0;

  constructor(api, model) {
    this.api = api;
    this.model = model;
  }

  /** Load the model. From then on, nothing is asked of the server. */
  async prepare() {
    this.ready ??= this.#load().catch((error) => {
      this.ready = null;
      throw error;
    });
    await this.ready;
  }

  async #load() {
    this.worker = new Worker(address("assets/worker.js"), { type: "module" });
    this.worker.onmessage = ({ data }) => this.#settle(data);
    const names = this.model.detector ? ["graph", "weights", "detector"] : ["graph", "weights"];
    const files = await Promise.all(names.map((name) => this.api.file(this.model.files[name])));
    const wasm = await this.api.file("assets/ort.wasm");
    const loaded = Object.fromEntries(names.map((name, i) => [name, files[i]]));
    await this.#call("load", { model: this.model, wasm, ...loaded });
  }

  async picture(file) {
    await this.prepare();
    return this.#read(await createImageBitmap(file), false);
  }

  async frame(canvas) {
    await this.prepare();
    return this.#read(await createImageBitmap(canvas), true);
  }

  rest() {}

  async #read(bitmap, live) {
    return { faces: await this.#call("read", { bitmap, live }, [bitmap]), model: this.model };
  }

  #call(method, argument, transfer = []) {
    const number = ++this.#count;
    this.worker.postMessage({ number, method, argument }, transfer);
    return new Promise((resolve, reject) => this.#calls.set(number, { resolve, reject }));
  }

  #settle({ number, result, error }) {
    const { resolve, reject } = this.#calls.get(number);
    this.#calls.delete(number);
    if (error) reject(new Error(error));
    else resolve(result);
  }
}
