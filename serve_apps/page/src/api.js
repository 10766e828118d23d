// The server's HTTP API. A lost server is waited for; a missing token is asked for once.

const TOKEN = "ferry-token"; // in sessionStorage: it is gone when the tab is closed
const POLL = 1500; // milliseconds between two looks for a lost server
const MAX_UPLOAD = 8 * 2 ** 20; // larger pictures are sent smaller
const MAX_SIDE = 2048;

/** The server can't be reached, or has no replica of the model. */
export class Lost extends Error {
  constructor(reason = "the server does not answer") {
    super(reason);
  }
}

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
    const request = { method: "POST", body: picture, headers: { "Content-Type": picture.type || "image/jpeg" } };
    for (;;) {
      try {
        const response = await this.#send(this.withModel("v1/predict"), request);
        const { images, model } = await response.json();
        return { faces: images[0].faces, model };
      } catch (error) {
        if (!(error instanceof Lost)) throw error;
        await this.back(error);
      }
    }
  }

  /** The path with the chosen model. */
  withModel(path) {
    return this.model ? `${path}?model=${encodeURIComponent(this.model)}` : path;
  }

  /** Resolves when a lost server answers again. Events `lost` (with the reason) and `back` tell the page. */
  back({ message } = new Lost()) {
    this.#waiting ??= this.#poll(message).finally(() => (this.#waiting = null));
    return this.#waiting;
  }

  async #poll(reason) {
    this.dispatchEvent(new CustomEvent("lost", { detail: reason }));
    do await new Promise((resolve) => setTimeout(resolve, POLL));
    while (!(await fetch(address("healthz")).then((response) => response.ok, () => false)));
    this.dispatchEvent(new Event("back"));
  }

  async #send(path, options = {}) {
    const headers = token() ? { ...options.headers, Authorization: `Bearer ${token()}` } : options.headers;
    const response = await fetch(address(path), { ...options, headers }).catch(() => {
      throw new Lost();
    });
    if (response.ok) return response;
    if (response.status === 401) {
      await this.askToken();
      return this.#send(path, options);
    }
    const { detail } = await response.json().catch(() => ({}));
    if (response.status === 503) throw new Lost(detail);
    if (!detail) throw new Lost(); // the answer of a proxy without the server
    throw new Refused(response.status, detail);
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
