import { el } from "./dom.js";
import { renderInline } from "./inline.js";
import { parseBlocks } from "./markdown.js";

/**
 * An answer on the page. `update` may be called with every token: it draws at most once a frame
 * and touches only the blocks that changed. `mark(n, occurrence)` makes the button for the mark
 * [n], where `occurrence` counts the marks of the same n from 0, or gives null for plain text.
 */
export class Prose {
  #drawn = [];
  #text = "";
  #frame = 0;

  constructor(container, mark) {
    this.container = container;
    this.mark = mark;
  }

  /**
   * `stage` is "open" while more may come, "broken" if it never will, "whole" for a complete text.
   * What is not complete is shown as what it is about to be: open bold as bold, table rows one by one.
   */
  update(text, stage = "open") {
    this.#text = stage === "whole" ? text : withClosedBold(stage === "open" ? withWholeRows(text) : text);
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  /** Draws now. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const blocks = parseBlocks(this.#text);
    let same = 0;
    while (same < blocks.length && same < this.#drawn.length && blocks[same].source === this.#drawn[same].source) same += 1;
    this.#drawn.splice(same).forEach(({ node }) => node.remove());
    for (const block of blocks.slice(same)) this.#draw(block);
  }

  #draw(block) {
    const seen = new Map(this.#drawn.at(-1)?.seen); // how often each n was cited up to here
    const mark = (n) => {
      const node = this.mark(n, seen.get(n) ?? 0);
      if (node) seen.set(n, (seen.get(n) ?? 0) + 1);
      return node;
    };
    const node = renderBlock(block, mark);
    this.container.append(node);
    this.#drawn.push({ source: block.source, node, seen });
  }
}

function withWholeRows(text) {
  const lines = text.split("\n");
  const growing = lines.pop(); // empty after a line end
  let first = lines.length;
  while (first > 0 && /^\s*\|/.test(lines[first - 1])) first -= 1;
  const whole = lines.length - first;
  if (growing && !/^\s*\|/.test(growing)) return text;
  if (whole >= 2) return lines.join("\n");
  return growing || whole ? lines.slice(0, first).join("\n") : text;
}

function withClosedBold(text) {
  const line = text.slice(text.lastIndexOf("\n") + 1);
  const inCode = (text.match(/^ {0,3}(?:```|~~~)/gm) ?? []).length % 2 === 1;
  if (inCode || (line.match(/\*\*/g) ?? []).length % 2 === 0) return text;
  return /\*\*\s*$/.test(text) ? text.replace(/\*\*\s*$/, "") : `${text.trimEnd()}**`;
}

function renderBlock(block, mark) {
  const inline = (text) => renderInline(text, mark);
  switch (block.type) {
    case "heading": // the question is an h2
      return el(`h${Math.min(block.level + 2, 6)}`, {}, inline(block.text));
    case "code":
      return el("pre", { tabindex: "0" }, el("code", { text: block.code }));
    case "rule":
      return el("hr");
    case "quote":
      return el("blockquote", {}, block.blocks.map((inner) => renderBlock(inner, mark)));
    case "list":
      return renderList(block, mark);
    case "table":
      return renderTable(block, inline);
    default:
      return el("p", {}, inline(block.text));
  }
}

function renderList({ ordered, start, items }, mark) {
  const nodes = items.map((blocks) => el("li", {}, blocks.flatMap((block, index) => {
    const tight = index === 0 && block.type === "paragraph";
    return tight ? renderInline(block.text, mark) : renderBlock(block, mark);
  })));
  return ordered ? el("ol", { start: start === 1 ? null : start }, nodes) : el("ul", {}, nodes);
}

function renderTable({ header, rows, align }, inline) {
  const cell = (tag) => (text, column) => el(tag, { class: align[column] || null }, inline(text));
  const line = (cells) => header.map((_, column) => cells[column] ?? "");
  const table = el(
    "table",
    {},
    el("thead", {}, el("tr", {}, header.map(cell("th")))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, line(cells).map(cell("td"))))),
  );
  return el("div", { class: "table-scroll", tabindex: "0" }, table);
}
