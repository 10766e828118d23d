// The camera or a video file: plays it, gives its frames to an engine, and measures rate and age of the answers.

import { watch } from "./frames.js";

const WINDOW = 2000; // milliseconds over which rate and age are measured
const CAMERA = { video: { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "user" } };

export class Player {
  #stop = null;
  #drawn = []; // {at, age} of the last answers

  /** `answered(answer)` draws an answer, which has `seconds`; `failed(error)` gets the error of a frame without one. */
  constructor(video, engine, answered, failed) {
    Object.assign(this, { video, engine, answered, failed });
    this.source = null; // "camera", or the name of a file
  }

  async camera() {
    if (!navigator.mediaDevices) throw new Error("The camera needs an address with https://, or localhost.");
    const stream = await navigator.mediaDevices.getUserMedia(CAMERA);
    this.stop();
    stream.getVideoTracks()[0].onended = () => this.failed(new Error("The camera was taken away."));
    this.video.srcObject = stream;
    await this.#start("camera");
  }

  async file(file) {
    this.stop();
    this.video.src = URL.createObjectURL(file);
    this.video.controls = true;
    await this.#start(file.name);
  }

  async #start(source) {
    this.source = source;
    const started = performance.now();
    let last = 0;
    const draw = (answer) => {
      if (answer.captured < last || this.source !== source) return; // overtaken by a newer one
      last = answer.captured;
      const seconds = source === "camera" ? (answer.captured - started) / 1000 : answer.time;
      this.answered({ ...answer, seconds });
      this.#measure(answer.captured);
    };
    this.#stop = watch(this.video, this.engine, (answer) => requestAnimationFrame(() => draw(answer)), this.failed);
    await this.video.play();
  }

  /** Pause or resume; returns whether it is paused. */
  toggle() {
    if (this.video.paused) this.video.play();
    else this.video.pause();
    return this.video.paused;
  }

  stop() {
    this.#stop?.();
    this.#stop = this.source = null;
    this.#drawn = [];
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    if (this.video.src) URL.revokeObjectURL(this.video.src);
    this.video.srcObject = null;
    this.video.removeAttribute("src");
    this.video.controls = false;
    this.video.load();
  }

  /** Answers per second, and their median age in milliseconds when drawn; null before the first ones. */
  get speed() {
    const now = performance.now();
    this.#drawn = this.#drawn.filter(({ at }) => at > now - WINDOW);
    if (this.#drawn.length < 2) return null;
    const ages = this.#drawn.map(({ age }) => age).sort((a, b) => a - b);
    const seconds = (now - this.#drawn[0].at) / 1000;
    return { rate: this.#drawn.length / seconds, age: ages[ages.length >> 1] };
  }

  /** Each answer is a measure in the browser's performance timeline, from the frame to the drawn answer. */
  #measure(captured) {
    const at = performance.now();
    this.#drawn.push({ at, age: at - captured });
    performance.measure("answer", { start: captured, end: at });
    performance.clearMeasures("answer");
  }
}
