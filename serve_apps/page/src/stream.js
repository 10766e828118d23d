// Frames to the server over a WebSocket, and their answers. Reconnects by itself.

import { Lost, address, token } from "./api.js";

const POLICY_VIOLATION = 1008; // no token, or a wrong one
const REFUSED = [1013, 4403]; // the server has as many connections as it takes; the key is for something else
const PAUSE = 1000; // milliseconds before a closed connection is opened again

export class Stream {
  #socket = null; // a promise
  #sent = 0;
  #waiting = new Map(); // the frames without an answer, by number

  constructor(api) {
    this.api = api;
  }

  /** The faces in an encoded frame, and the model that read them; null if a newer frame replaced it. */
  async predict(frame) {
    this.#socket ??= this.#open();
    const socket = await this.#socket;
    if (socket.readyState !== WebSocket.OPEN) throw new Lost();
    const number = ++this.#sent;
    const answer = new Promise((resolve, reject) => this.#waiting.set(number, { resolve, reject }));
    socket.send(frame);
    return answer;
  }

  close() {
    this.#socket?.then(end, () => {});
    for (const { resolve } of this.#waiting.values()) resolve(null);
    this.#waiting.clear();
    this.#end();
  }

  async #open() {
    const url = address(this.api.withModel("live/stream"));
    url.protocol = url.protocol.replace("http", "ws");
    const socket = new WebSocket(url);
    socket.onmessage = (event) => this.#answer(JSON.parse(event.data));
    try {
      await new Promise((resolve, reject) => {
        socket.onopen = resolve;
        socket.onclose = () => reject(new Lost());
      });
    } catch (error) {
      await this.api.back(error);
      this.#end();
      throw error;
    }
    socket.onclose = (event) => this.#closed(event);
    if (token()) socket.send(JSON.stringify({ token: token() }));
    return socket;
  }

  #answer({ frame, faces, model, error }) {
    for (const [number, { resolve, reject }] of this.#waiting) {
      if (number > frame) continue;
      this.#waiting.delete(number);
      if (number < frame) resolve(null); // dropped on the way
      else if (error) reject(new Error(error));
      else resolve({ faces, model });
    }
  }

  async #closed({ code, reason }) {
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of waiting) reject(REFUSED.includes(code) ? new Error(reason) : new Lost());
    if (code === POLICY_VIOLATION) await this.api.askToken();
    else await new Promise((resolve) => setTimeout(resolve, PAUSE));
    this.#end();
  }

  #end() {
    this.#socket = null;
    this.#sent = 0;
  }
}

function end(socket) {
  socket.onclose = null;
  socket.close(1000);
}
