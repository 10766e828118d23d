// Pictures: a row of thumbnails, one of them on the stage.

export class Pictures {
  #items = []; // {file, url, button, answer, where}
  #reading = Promise.resolve();

  /**
   * `engine()` reads a file. `show(item)` is called when another picture is selected, and when the selected one has its
   * `answer` or `error`; `read(item)` whenever any picture has its answer.
   */
  constructor(nav, engine, show, read) {
    Object.assign(this, { nav, engine, show, read });
    this.selected = null;
  }

  /** Add files, select the first of them, and read them in turn. */
  add(files) {
    const items = files.map((file) => this.#item(file));
    this.#items.push(...items);
    this.nav.hidden = this.#items.length < 2;
    this.select(items[0]);
    for (const item of items) this.#read(item);
  }

  select(item) {
    this.selected = item;
    for (const other of this.#items) other.button.setAttribute("aria-current", String(other === item));
    item.button.scrollIntoView?.({ block: "nearest", inline: "nearest" });
    this.show(item);
    if (item.where && item.where !== this.engine().name) this.#read(item);
  }

  /** Select the next picture, or the one before. */
  step(by) {
    const place = this.#items.indexOf(this.selected) + by;
    if (this.selected && this.#items[place]) this.select(this.#items[place]);
  }

  /** Read the selected picture again, on another engine. */
  again() {
    if (this.selected) this.#read(this.selected);
  }

  leave() {
    this.selected = null;
    for (const { button } of this.#items) button.setAttribute("aria-current", "false");
  }

  #item(file) {
    const item = { file, url: URL.createObjectURL(file), button: document.createElement("button") };
    item.button.append(Object.assign(new Image(), { src: item.url, alt: file.name }));
    item.button.onclick = () => this.select(item);
    this.nav.append(item.button);
    return item;
  }

  #read(item) {
    const engine = this.engine();
    item.where = engine.name;
    this.#reading = this.#reading.then(async () => {
      try {
        item.answer = await engine.picture(item.file);
        item.error = null;
        this.read(item);
      } catch (error) {
        item.answer = null;
        item.error = error.message;
      }
      if (item === this.selected) this.show(item);
    });
  }
}
