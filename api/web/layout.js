/**
 * A document's elements -> the blocks the reader draws, in order, with UTF-16 ranges:
 * heading, text, line, code, table (rows of cells), and page and sheet where a new one begins.
 * Text outside every element is shown too, so that nothing of a document is hidden.
 */
export function layOut(document, points) {
  const { text } = document;
  const markdown = document.type === "md" || document.type === "markdown";
  const blocks = [];
  let rows = [];
  let at = 0;
  let page = null;
  let sheet = null;

  const endTable = () => {
    if (rows.length) blocks.push(...tableBlocks(rows));
    rows = [];
  };
  const between = (to) => {
    const gap = trimmed(text, at, to);
    if (gap.to <= gap.from || isTableRule(text.slice(gap.from, gap.to))) return;
    endTable();
    if (!isFence(text.slice(gap.from, gap.to))) blocks.push({ type: "text", ...gap });
  };

  for (const element of document.elements ?? []) {
    const from = points.toUnits(element.start);
    const to = points.toUnits(element.end);
    between(from);
    at = Math.max(at, to);
    if ((element.sheet ?? null) !== sheet) {
      endTable();
      sheet = element.sheet ?? null;
      if (sheet) blocks.push({ type: "sheet", sheet, from, to: from + 1 });
    }
    if ((element.page ?? null) !== page) {
      endTable();
      page = element.page ?? null;
      if (page !== null) blocks.push({ type: "page", page, from, to: from + 1 });
    }
    if (element.kind === "header" || element.kind === "row") {
      if (element.kind === "header" && rows.some((row) => !row.header)) endTable();
      rows.push(...rowsOf(text, from, to, element.kind === "header", markdown));
      continue;
    }
    endTable();
    blocks.push(blockOf(text, { ...element, from, to }, markdown));
  }
  between(text.length);
  endTable();
  return blocks;
}

function blockOf(text, { kind, heading, from, to }, markdown) {
  const range = trimmed(text, from, to);
  if (kind === "heading") {
    const level = (heading?.length ?? 0) + 1;
    return { type: "heading", level, ...(markdown ? withoutHashes(text, range) : range) };
  }
  if (kind === "code") return { type: "code", ...(markdown ? withoutFences(text, trimmed(text, from, to, /\n/)) : trimmed(text, from, to, /\n/)) };
  return { type: "text", ...range, ...(markdown && { runs: inlineRuns(text, range) }) };
}

function trimmed(text, from, to, space = /\s/) {
  let start = from;
  let end = to;
  while (start < end && space.test(text[start])) start += 1;
  while (end > start && /\s/.test(text[end - 1])) end -= 1;
  return { from: start, to: end };
}

function withoutHashes(text, { from, to }) {
  const [marks] = /^#{1,6}[ \t]+/.exec(text.slice(from, to)) ?? [""];
  const underline = /\n[=-]+$/.exec(text.slice(from, to));
  return { from: from + marks.length, to: underline ? from + underline.index : to };
}

function withoutFences(text, { from, to }) {
  const code = text.slice(from, to);
  const open = /^[ \t]*(?:`{3,}|~{3,})[^\n]*\n/.exec(code);
  if (!open) return { from, to };
  const close = /\n[ \t]*(?:`{3,}|~{3,})$/.exec(code);
  return { from: from + open[0].length, to: Math.max(from + open[0].length, close ? from + close.index : to) };
}

const isTableRule = (gap) => gap.includes("-") && /^[\s|:-]+$/.test(gap);
const isFence = (gap) => /^(?:`{3,}|~{3,})[^\n]*$/.test(gap);

/** Markdown without the signs of bold, code and escapes, which would be in the reader's way. */
function inlineRuns(text, { from, to }) {
  const runs = [];
  const pattern = /\*\*([^*\n]+)\*\*|`([^`\n]+)`|\\(?=[|*_`#[\]])/g;
  const part = text.slice(from, to);
  let at = 0;
  for (const found of part.matchAll(pattern)) {
    const sign = found[1] === undefined ? 1 : 2;
    const end = found.index + found[0].length;
    runs.push({ from: from + at, to: from + found.index });
    if (end - found.index > 1) runs.push({ from: from + found.index + sign, to: from + end - sign, tag: sign === 2 ? "strong" : "code" });
    at = end;
  }
  runs.push({ from: from + at, to });
  return runs;
}

/** The lines of a header or row element; the rule below a Markdown header is none. */
function rowsOf(text, from, to, header, markdown) {
  const rows = [];
  let start = from;
  for (const line of text.slice(from, to).split("\n")) {
    const range = trimmed(text, start, start + line.length);
    if (range.to > range.from && !isTableRule(line)) {
      const cells = cellsOf(text, range);
      if (markdown) cells.forEach((cell) => (cell.runs = inlineRuns(text, cell)));
      rows.push({ ...range, header, cells });
    }
    start += line.length + 1;
  }
  return rows;
}

function cellsOf(text, { from, to }) {
  const line = text.slice(from, to);
  const raw = line.length > 1 && line.startsWith("|") && line.endsWith("|");
  const separator = raw ? /(?<!\\)\|/g : / \|(?: |$)/g;
  const end = raw ? line.length - 1 : line.length;
  const cells = [];
  let at = raw ? 1 : 0;
  separator.lastIndex = at;
  for (let found = separator.exec(line); found && found.index < end; found = separator.exec(line)) {
    cells.push(trimmed(text, from + at, from + found.index));
    at = found.index + found[0].length;
    if (!raw) separator.lastIndex = at - (found[0].endsWith(" ") ? 1 : 0); // the space may begin the next " | "
  }
  cells.push(trimmed(text, from + Math.min(at, end), from + end));
  return cells;
}

/** A table where there are columns, else each row as a line. */
function tableBlocks(rows) {
  const range = { from: rows[0].from, to: rows.at(-1).to };
  const columns = Math.max(...rows.map((row) => row.cells.length));
  if (columns > 1) return [{ type: "table", rows, ...range }];
  return rows.map(({ from, to }) => ({ type: "line", from, to }));
}
