import { el } from "./dom.js";
import { label } from "./i18n.js";
import { layOut } from "./layout.js";
import { CodePoints, nearestOccurrence, wholeCharacter } from "./text.js";

const WHOLE = 60_000; // a longer document is shown in part
const AROUND = 15_000;
const STEP = 30_000;

/**
 * Shows a document's text in `container`, with `passage` ({quote, start, end} in code points, or
 * null) marked. `found` tells how the passage fared: "exact", "moved" (the same words stand
 * elsewhere now), "missing", or "none" if none was asked for.
 */
export class Reader {
  constructor(container, document, passage) {
    this.container = container;
    this.document = document;
    this.text = document.text;
    const points = new CodePoints(this.text);
    this.blocks = layOut(document, points);
    this.#locate(passage, points);
    this.#chooseWindow();
    this.#draw();
  }

  #locate(passage, points) {
    this.range = null;
    this.found = "none";
    if (!passage) return;
    const { quote } = passage;
    const from = points.toUnits(passage.start);
    const to = points.toUnits(passage.end);
    if (to > from && (quote === undefined || this.text.slice(from, to) === quote)) {
      this.range = { from, to };
      this.found = "exact";
      return;
    }
    const moved = nearestOccurrence(this.text, quote, from);
    this.found = moved < 0 ? "missing" : "moved";
    if (moved >= 0) this.range = { from: moved, to: moved + quote.length };
  }

  #chooseWindow() {
    const { length } = this.text;
    if (length <= WHOLE) {
      this.window = { from: 0, to: length };
      return;
    }
    const { from, to } = this.range ?? { from: 0, to: 0 };
    this.window = { from: this.#lineStart(from - AROUND), to: this.#lineEnd(Math.max(to, from) + AROUND) };
  }

  #lineStart(index) {
    if (index <= 0) return 0;
    const line = this.text.lastIndexOf("\n", index) + 1;
    return index - line < 2000 ? line : wholeCharacter(this.text, index);
  }

  #lineEnd(index) {
    if (index >= this.text.length) return this.text.length;
    const line = this.text.indexOf("\n", index);
    return line >= 0 && line - index < 2000 ? line : wholeCharacter(this.text, index);
  }

  #draw() {
    const { from, to } = this.window;
    const shown = this.blocks.filter((block) => block.to > from && block.from < to);
    this.marks = [];
    this.container.replaceChildren(
      ...(from > 0 ? [this.#more("before", from)] : []),
      ...shown.map((block) => this.#block(block)),
      ...(to < this.text.length ? [this.#more("after", this.text.length - to)] : []),
    );
  }

  #more(side, count) {
    const button = el("button", { type: "button", class: "secondary more", "data-testid": `more-${side}`, i18n: ["panel_more", { count }] });
    button.addEventListener("click", () => this.#widen(side));
    return button;
  }

  #widen(side) {
    const scroller = this.container.parentElement;
    const height = scroller.scrollHeight;
    const { from, to } = this.window;
    if (side === "before") this.window = { from: this.#lineStart(from - STEP), to };
    else this.window = { from, to: this.#lineEnd(to + STEP) };
    this.#draw();
    if (side === "before") scroller.scrollTop += scroller.scrollHeight - height;
  }

  #block(block) {
    switch (block.type) {
      case "page":
        return el("p", { class: "page-break" }, el("span", { i18n: ["page", { page: block.page, name: this.document.name }] }));
      case "sheet":
        return el("p", { class: "page-break" }, el("span", { i18n: ["sheet", { sheet: block.sheet }] }));
      case "table":
        return this.#table(block);
      case "heading":
        return this.#fill(el(`h${Math.min(block.level + 2, 6)}`, { class: `level-${Math.min(block.level, 4)}` }), block);
      case "code":
        return el("pre", { tabindex: "0" }, this.#fill(el("code"), block));
      default:
        return this.#fill(el("p", { class: block.type }), block);
    }
  }

  #fill(node, block, whole = false) {
    for (const { from, to, tag } of block.runs ?? [block]) {
      const target = tag ? node.appendChild(el(tag)) : node;
      if (whole) this.#text(target, from, to);
      else this.#text(target, Math.max(from, this.window.from), Math.min(to, this.window.to));
    }
    return node;
  }

  #text(node, from, to) {
    const { from: start, to: end } = this.range ?? { from: Infinity, to: Infinity };
    const cut = (index) => Math.min(Math.max(index, from), to);
    const parts = [[from, cut(start), false], [cut(start), cut(end), true], [cut(end), to, false]];
    for (const [a, b, marked] of parts) {
      if (b <= a) continue;
      const text = this.text.slice(a, b);
      if (!marked || !text.trim()) {
        node.append(text);
        continue;
      }
      const mark = el("mark", { "data-testid": "panel-mark", text });
      this.marks.push(mark);
      node.append(mark);
    }
  }

  #table({ rows }) {
    const shown = rows.filter((row) => row.header || (row.to > this.window.from && row.from < this.window.to));
    const columns = Math.max(...shown.map((row) => row.cells.length));
    const line = (row) => {
      const cells = [...row.cells, ...Array(columns - row.cells.length).fill({ from: 0, to: 0 })];
      return el("tr", {}, cells.map((cell) => this.#fill(el(row.header ? "th" : "td"), cell, true)));
    };
    const heads = shown.filter((row) => row.header).map(line);
    const body = shown.filter((row) => !row.header).map(line);
    const table = el("table", {}, heads.length ? el("thead", {}, heads) : null, el("tbody", {}, body));
    return el("div", { class: "table-scroll", tabindex: "0" }, table);
  }
}

/** A sentence about `reader.found`, or null where there is nothing to say. */
export function foundNote(reader, quote) {
  if (reader.found !== "moved" && reader.found !== "missing") return null;
  const note = el("div", { class: "panel-note", "data-testid": "panel-note" });
  label(note.appendChild(el("p")), `panel_${reader.found}`);
  if (reader.found === "missing") note.append(el("blockquote", { text: quote }));
  return note;
}
