/**
 * The small Markdown of answers: text -> blocks. Headings, paragraphs, lists, quotes, fenced code,
 * tables and rules; what is inside a line is read by inline.js. No HTML: it stays text.
 */

const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*)$/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^([ \t]*)([-*+•]|\d{1,9}[.)])[ \t]+(.*)$/;
const SEPARATOR = /^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const DEEPEST = 8; // lists and quotes nested deeper than this are shown as plain text

/** The blocks of `text`; `source` is each one's own text, so that equal sources look equal. */
export function parseBlocks(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const read = READERS.find((reader) => reader.starts(lines, at, depth));
    const { block, next } = read.read(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, next).join("\n") });
    at = next;
  }
  return blocks;
}

const READERS = [
  { starts: (lines, at) => FENCE.test(lines[at]), read: readFence },
  { starts: (lines, at) => HEADING.test(lines[at]), read: readHeading },
  { starts: (lines, at) => RULE.test(lines[at]), read: (_, at) => ({ block: { type: "rule" }, next: at + 1 }) },
  { starts: isTable, read: readTable },
  { starts: (lines, at, depth) => depth < DEEPEST && QUOTE.test(lines[at]), read: readQuote },
  { starts: (lines, at, depth) => depth < DEEPEST && ITEM.test(lines[at]), read: readList },
  { starts: () => true, read: readParagraph },
];

function readFence(lines, at) {
  const [, fence, language] = FENCE.exec(lines[at]);
  let end = at + 1;
  while (end < lines.length && !closes(lines[end], fence)) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  return { block: { type: "code", code, language: language.trim() }, next: Math.min(end + 1, lines.length) };
}

function closes(line, fence) {
  const bare = line.trim();
  return bare.length >= fence.length && bare === fence[0].repeat(bare.length);
}

function readHeading(lines, at) {
  const [, marks, text] = HEADING.exec(lines[at]);
  const bare = text.trimEnd().replace(/[ \t]#+$/, "");
  return { block: { type: "heading", level: marks.length, text: bare }, next: at + 1 };
}

function isTable(lines, at) {
  return lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && SEPARATOR.test(lines[at + 1]);
}

function readTable(lines, at) {
  const align = splitCells(lines[at + 1]).map((cell) => {
    if (!cell.endsWith(":")) return "";
    return cell.startsWith(":") ? "center" : "end";
  });
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const rows = lines.slice(at + 2, end).map(splitCells);
  return { block: { type: "table", header: splitCells(lines[at]), rows, align }, next: end };
}

function splitCells(line) {
  const bare = line.trim().replace(/^\|/, "").replace(/([^\\])\|$/, "$1");
  return bare.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, "")).join("\n");
  return { block: { type: "quote", blocks: parseBlocks(inner, depth + 1) }, next: end };
}

function readList(lines, at, depth) {
  const [, , firstMark] = ITEM.exec(lines[at]);
  const ordered = /\d/.test(firstMark);
  const items = [];
  let next = at;
  while (next < lines.length) {
    const item = ITEM.exec(lines[next]);
    if (!item || /\d/.test(item[2]) !== ordered || RULE.test(lines[next])) break;
    const end = endOfItem(lines, next, width(item[1]));
    items.push(parseBlocks([item[3], ...dedent(lines.slice(next + 1, end))].join("\n"), depth + 1));
    next = end;
    const following = firstFilled(lines, next);
    if (following < lines.length && ITEM.test(lines[following])) next = following;
  }
  return { block: { type: "list", ordered, start: ordered ? parseInt(firstMark, 10) : 1, items }, next };
}

const width = (indent) => indent.replaceAll("\t", "    ").length;
const indentOf = (line) => width(/^[ \t]*/.exec(line)[0]);

/** The line after an item that began with `indent`: deeper lines and unbroken text belong to it. */
function endOfItem(lines, at, indent) {
  let end = at + 1;
  while (end < lines.length) {
    if (!lines[end].trim()) {
      const following = firstFilled(lines, end);
      if (following >= lines.length || indentOf(lines[following]) <= indent + 1) break;
      end = following;
      continue;
    }
    const deeper = indentOf(lines[end]) > indent + 1;
    if (!deeper && (ITEM.test(lines[end]) || startsBlock(lines, end))) break;
    end += 1;
  }
  return end;
}

function firstFilled(lines, at) {
  let next = at;
  while (next < lines.length && !lines[next].trim()) next += 1;
  return next;
}

function dedent(lines) {
  const filled = lines.filter((line) => line.trim());
  const least = Math.min(...filled.map(indentOf), 8);
  return lines.map((line) => line.replaceAll("\t", "    ").slice(Math.min(least, indentOf(line))));
}

function startsBlock(lines, at) {
  const line = lines[at];
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || isTable(lines, at);
}

function readParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !startsBlock(lines, end) && !ITEM.test(lines[end])) end += 1;
  const text = lines.slice(at, end).map((line) => line.trim()).join("\n");
  return { block: { type: "paragraph", text }, next: end };
}
