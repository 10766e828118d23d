// The server's HTTP API. A lost server is waited for; a missing token is asked for once.

const TOKEN = "ferry-token"; // in sessionStorage: it is gone when the tab is closed
const POLL = 1500; // milliseconds between two looks for a lost server
const MAX_UPLOAD = 8 * 2 ** 20; // larger pictures are sent smaller
const MAX_SIDE = 2048;

/** The server can't be reached, or has no replica of the model. */
export class Lost extends Error {}

/** The server's answer to a bad request: `status`, and its reason as the message. */
export class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

/** Address of a path of the server, which may serve the page below a prefix. */
export const address = (path) => new URL(path, document.baseURI);

export const token = () => sessionStorage.getItem(TOKEN);
export const setToken = (value) => sessionStorage.setItem(TOKEN, value);

export class Api extends EventTarget {
  #waiting = null;

  /** `askToken()` resolves when the user has entered one. */
  constructor(askToken) {
    super();
    this.askToken = askToken;
    this.model = null; // the one to use, if the server has several
  }

  /** The models that the server offers. */
  async models() {
    return (await (await this.#send("v1/models")).json()).models;
  }

  /** What the browser needs to know to run the model itself; null if the server doesn't offer that. */
  async deviceModel() {
    try {
      return await (await this.#send("v1/model")).json();
    } catch (error) {
      if (error instanceof Refused && error.status === 404) return null;
      throw error;
    }
  }

  /** The bytes of one of the model's files. */
  async file(path) {
    return new Uint8Array(await (await this.#send(path)).arrayBuffer());
  }

  /** The faces in an encoded picture (a Blob), and the model that read them. Waits for a lost server. */
  async predict(picture) {
    const body = new FormData();
    body.append("files", picture, "picture");
    for (;;) {
      try {
        const response = await this.#send(this.withModel("v1/predict"), { method: "POST", body });
        const { images, model } = await response.json();
        return { faces: images[0].faces, model };
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
        await this.back();
      }
    }
  }

  /** The path with the chosen model. */
  withModel(path) {
    return this.model ? `${path}?model=${encodeURIComponent(this.model)}` : path;
  }

  /** Resolves when a lost server answers again. Events `lost` and `back` tell the page. */
  back() {
    this.#waiting ??= this.#poll().finally(() => (this.#waiting = null));
    return this.#waiting;
  }

  async #poll() {
    this.dispatchEvent(new Event("lost"));
    do await new Promise((resolve) => setTimeout(resolve, POLL));
    while (!(await fetch(address("healthz")).then((response) => response.ok, () => false)));
    this.dispatchEvent(new Event("back"));
  }

  async #send(path, options = {}) {
    const headers = token() ? { Authorization: `Bearer ${token()}` } : {};
    const response = await fetch(address(path), { ...options, headers }).catch((error) => {
      throw new Lost(error.message);
    });
    if (response.ok) return response;
    if (response.status === 401) {
      await this.askToken();
      return this.#send(path, options);
    }
    if (response.status >= 502 && response.status <= 504) throw new Lost(`status ${response.status}`);
    const body = await response.json().catch(() => ({}));
    throw new Refused(response.status, body.detail ?? `the server answered with status ${response.status}`);
  }
}

/** The file itself; a picture that is too large for the server as a smaller JPEG. */
export async function upload(file) {
  if (file.size <= MAX_UPLOAD) return { blob: file, scale: 1 };
  const picture = await createImageBitmap(file);
  const scale = Math.min(1, MAX_SIDE / Math.max(picture.width, picture.height));
  const canvas = new OffscreenCanvas(Math.round(picture.width * scale), Math.round(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return { blob: await canvas.convertToBlob({ type: "image/jpeg", quality: 0.92 }), scale };
}
