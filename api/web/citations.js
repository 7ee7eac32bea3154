import { byId, el } from "./dom.js";
import { label, t } from "./i18n.js";
import { baseName, readable } from "./text.js";

/** The sources of one answer, as they become known while it is written. */
export class Sources {
  #hits = new Map();
  #cited = [];

  retrieved(hits) {
    this.#hits = new Map(hits.map((hit) => [hit.n, { ...hit, quote: hit.text }]));
  }

  cited(citation) {
    this.#cited.push(citation);
  }

  finished(citations) {
    this.#cited = [...citations];
  }

  get hits() {
    return [...this.#hits.values()];
  }

  /** Cited passages, each once, in the order of their numbers. */
  get passages() {
    const once = new Map(this.#cited.map((c) => [`${c.n} ${c.document_id} ${c.start} ${c.end}`, c]));
    return [...once.values()].sort((a, b) => a.n - b.n);
  }

  /** What the mark [n] rests on when it stands for the `occurrence`-th time; null if unknown. */
  passage(n, occurrence) {
    const own = this.#cited.filter((citation) => citation.n === n);
    return own[Math.min(occurrence, own.length - 1)] ?? this.#hits.get(n) ?? null;
  }
}

/** The button of a mark. `find` is asked each time, since the quote arrives after the mark. */
export function citationButton(n, find, onOpen) {
  const button = el("button", { type: "button", class: "mark", "data-testid": "citation", "data-n": n, text: n });
  const passage = find();
  label(button, "source", { n, name: baseName(passage.document), passage }, "label");
  const show = () => tip.show(button, find());
  button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show());
  button.addEventListener("pointerleave", () => tip.hideSoon());
  button.addEventListener("focus", () => button.matches(":focus-visible") && show());
  button.addEventListener("blur", () => tip.hide());
  button.addEventListener("click", () => {
    tip.hide();
    onOpen(find(), button);
  });
  return button;
}

/** Passages as a list of buttons, for below an answer. */
export function sourceList(passages, onOpen) {
  return el("ol", { class: "sources-list" }, passages.map((passage) => {
    const where = el("span", { class: "source-place", i18n: ["place", passage] });
    const button = el(
      "button",
      { type: "button", class: "source", "data-testid": "source", "data-n": passage.n, title: passage.document },
      el("span", { class: "source-n", text: passage.n }),
      el("span", { class: "source-head" }, el("span", { class: "source-name", text: baseName(passage.document) }), where),
      el("span", { class: "source-quote", text: readable(passage) }),
    );
    button.addEventListener("click", () => onOpen(passage, button));
    return el("li", {}, button);
  }));
}

/** The one tooltip of the page. It stays while the pointer is on it; Escape closes it. */
class Tip {
  #node = byId("tip");
  #owner = null;
  #timer = 0;

  constructor() {
    this.#node.addEventListener("pointerenter", () => clearTimeout(this.#timer));
    this.#node.addEventListener("pointerleave", () => this.hideSoon());
    document.addEventListener("scroll", () => this.hide(), true);
    document.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.#owner) return;
      event.stopPropagation();
      this.hide();
    }, true);
  }

  show(owner, passage) {
    clearTimeout(this.#timer);
    this.#owner?.removeAttribute("aria-describedby");
    this.#owner = owner;
    owner.setAttribute("aria-describedby", this.#node.id);
    const where = t("place", passage);
    this.#node.replaceChildren(
      el("p", { class: "tip-name", text: baseName(passage.document) }),
      ...(where ? [el("p", { class: "tip-place", text: where })] : []),
      el("p", { class: "tip-quote", text: readable(passage) }),
    );
    this.#node.hidden = false;
    this.#put(owner.getBoundingClientRect());
  }

  #put(mark) {
    const { width, height } = this.#node.getBoundingClientRect();
    const left = Math.min(Math.max(12, mark.left + mark.width / 2 - width / 2), innerWidth - width - 12);
    const above = mark.top - height - 8;
    this.#node.style.left = `${Math.max(12, left)}px`;
    this.#node.style.top = `${above >= 12 ? above : mark.bottom + 8}px`;
  }

  hideSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.hide(), 120);
  }

  hide() {
    clearTimeout(this.#timer);
    this.#owner?.removeAttribute("aria-describedby");
    this.#owner = null;
    this.#node.hidden = true;
  }
}

export const tip = new Tip();
