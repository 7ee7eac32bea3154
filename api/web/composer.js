import { acceptDrops, byId, el } from "./dom.js";
import { label, unlabel } from "./i18n.js";

const TOUCH = matchMedia("(hover: none) and (pointer: coarse)");
const IMAGE_TYPES = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);

/** The box a question is written in, with its pictures. */
export class Composer {
  #form = byId("ask");
  #box = byId("question");
  #send = byId("send");
  #stop = byId("stop");
  #attach = byId("attach");
  #input = byId("image-input");
  #thumbs = byId("thumbs");
  #hint = byId("ask-hint");
  #images = []; // data URLs
  #readsImages = false;
  #busy = false;

  /** `onAsk({question, images})` is called for a complete question, `onStop()` for the stop button. */
  constructor({ onAsk, onStop }) {
    this.onAsk = onAsk;
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#box.addEventListener("keydown", (event) => this.#key(event));
    this.#box.addEventListener("input", () => this.#changed());
    this.#box.addEventListener("paste", (event) => this.#paste(event));
    this.#stop.addEventListener("click", onStop);
    this.#attach.addEventListener("click", () => this.#input.click());
    this.#input.addEventListener("change", () => {
      this.#add([...this.#input.files]);
      this.#input.value = "";
    });
    acceptDrops(byId("chat"), (files) => this.#add(files));
  }

  /** Whether pictures can be asked about: they are seen, or their text is read. */
  set readsImages(can) {
    this.#readsImages = can;
    this.#attach.hidden = !can;
    if (!can) this.#images = [];
    this.#drawThumbs();
  }

  set busy(busy) {
    const focused = document.activeElement === this.#send || document.activeElement === this.#stop;
    this.#busy = busy;
    this.#send.hidden = busy;
    this.#stop.hidden = !busy;
    this.#changed();
    if (focused) this.invite();
  }

  focus() {
    this.#box.focus();
  }

  /** As `focus`, but not where it would bring up a keyboard nobody asked for. */
  invite() {
    if (!TOUCH.matches) this.focus();
  }

  /** Puts `text` in the box with the caret behind it. */
  fill(text) {
    this.#box.value = text;
    this.#changed();
    this.focus();
    this.#box.setSelectionRange(text.length, text.length);
  }

  #key(event) {
    if (event.key !== "Enter" || event.shiftKey) return;
    // 229: Safari ends the composition before it reports the Enter that ended it
    if (event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    this.#submit();
  }

  #submit() {
    const question = this.#box.value.trim();
    if (!question || this.#busy) return;
    const images = this.#images;
    this.#images = [];
    this.#box.value = "";
    this.#drawThumbs();
    this.#changed();
    if (TOUCH.matches) this.#box.blur(); // the keyboard would cover the answer
    this.onAsk({ question, images });
  }

  #changed() {
    this.#send.disabled = this.#busy || !this.#box.value.trim();
    unlabel(this.#hint);
    this.#box.style.height = "auto";
    this.#box.style.height = `${this.#box.scrollHeight}px`;
  }

  #paste(event) {
    const files = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
    if (!files.length) return;
    event.preventDefault();
    this.#add(files);
  }

  async #add(files) {
    if (!this.#readsImages) {
      label(this.#hint, "no_vision");
      return;
    }
    unlabel(this.#hint);
    for (const file of files) {
      if (IMAGE_TYPES.has(file.type)) this.#images.push(await readAsDataUrl(file));
      else label(this.#hint, "not_an_image", { name: file.name });
    }
    this.#drawThumbs();
    this.focus();
  }

  #drawThumbs() {
    this.#thumbs.hidden = this.#images.length === 0;
    this.#thumbs.replaceChildren(...this.#images.map((source, index) => {
      const picture = el("img", { src: source });
      label(picture, "image", { n: index + 1 }, "label");
      const remove = el("button", { type: "button", class: "thumb-remove", "data-testid": "remove-image", i18nLabel: ["remove_image", { n: index + 1 }], text: "×" });
      remove.addEventListener("click", () => {
        this.#images = this.#images.filter((_, other) => other !== index);
        this.#drawThumbs();
        this.focus();
      });
      return el("span", { class: "thumb", "data-testid": "thumb" }, picture, remove);
    }));
  }
}

function readAsDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
