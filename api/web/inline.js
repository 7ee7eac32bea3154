import { el } from "./dom.js";

/**
 * Markdown inside a line -> DOM nodes: bold, italic, code, links (http and https only), citation
 * marks and line breaks. `mark(n)` gives the node for [n], or null if there is no source n.
 */
export function renderInline(text, mark, depth = 0) {
  const context = { mark, depth, unclosed: new Set() };
  const nodes = [];
  let plain = "";
  const push = (node) => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
    nodes.push(node);
  };
  let at = 0;
  while (at < text.length) {
    const marks = readMarks(text, at, mark);
    if (marks) {
      const last = /\S?$/u.exec(plain)[0];
      plain = plain.slice(0, plain.length - last.length);
      push(el("span", { class: "kept" }, last, marks.nodes, marks.after));
      at = marks.next;
      continue;
    }
    const found = readSpecial(text, at, context);
    if (!found) {
      plain += text[at];
      at += 1;
      continue;
    }
    if (found.node) push(found.node);
    else plain += found.text;
    at = found.next;
  }
  if (plain) nodes.push(document.createTextNode(plain));
  return nodes;
}

const DEEPEST = 6;
const WORD = /[\p{L}\p{N}_]/u;

function readSpecial(text, at, context) {
  switch (text[at]) {
    case "\\":
      return /[\\`*_[\]()#|~!>-]/.test(text[at + 1] ?? "") ? { text: text[at + 1], next: at + 2 } : null;
    case "`":
      return readCode(text, at);
    case "*":
    case "_":
      return context.depth < DEEPEST ? readEmphasis(text, at, context) : null;
    case "!":
      return text[at + 1] === "[" ? readLink(text, at + 1) : null; // no picture is loaded from afar
    case "[":
      return readLink(text, at);
    case "h":
      return readAddress(text, at);
    case "\n":
      return { node: el("br"), next: at + 1 };
    case "<":
      return readBreak(text, at);
    default:
      return null;
  }
}

function sticky(pattern, text, at) {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

function readCode(text, at) {
  const [fence] = sticky(/`+/y, text, at);
  let end = text.indexOf(fence, at + fence.length);
  while (end >= 0 && text[end + fence.length] === "`") end = text.indexOf(fence, end + fence.length + 1);
  if (end < 0) return { text: fence, next: at + fence.length };
  const code = text.slice(at + fence.length, end).replaceAll("\n", " ");
  return { node: el("code", { text: code.trim() || code }), next: end + fence.length };
}

function readEmphasis(text, at, { mark, depth, unclosed }) {
  const sign = text[at];
  const double = text[at + 1] === sign;
  const fence = double ? sign + sign : sign;
  const start = at + fence.length;
  if (!text[start] || /\s/.test(text[start])) return { text: fence, next: start };
  if (sign === "_" && WORD.test(text[at - 1] ?? "")) return { text: fence, next: start };
  const end = unclosed.has(fence) ? -1 : closing(text, fence, start);
  if (end < 0) {
    unclosed.add(fence); // nothing further on can close it either: look no second time
    return { text: fence, next: start };
  }
  const inner = renderInline(text.slice(start, end), mark, depth + 1);
  return { node: el(double ? "strong" : "em", {}, inner), next: end + fence.length };
}

function closing(text, fence, start) {
  for (let end = text.indexOf(fence, start + 1); end >= 0; end = text.indexOf(fence, end + 1)) {
    const after = text[end + fence.length] ?? "";
    const single = fence.length === 1;
    if (single && (after === fence || text[end - 1] === fence)) continue;
    if (/\s/.test(text[end - 1])) continue;
    if (fence[0] === "_" && WORD.test(after)) continue;
    return end;
  }
  return -1;
}

function readLink(text, at) {
  const found = sticky(/\[([^[\]\n]{1,500})\]\((https?:\/\/[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)\)/iy, text, at);
  const node = found && link(found[2], found[1]);
  return node ? { node, next: at + found[0].length } : null;
}

function readAddress(text, at) {
  if (WORD.test(text[at - 1] ?? "")) return null;
  const found = sticky(/https?:\/\/[^\s<>"'`*|\]\[，。；：、！？）】」』》”’]+/iy, text, at);
  if (!found) return null;
  const address = found[0].replace(/[.,;:!?)]+$/, "");
  const node = link(address, address);
  return node ? { node, next: at + address.length } : null;
}

function link(address, text) {
  try {
    const { protocol, href } = new URL(address);
    if (protocol !== "https:" && protocol !== "http:") return null;
    return el("a", { href, rel: "noopener noreferrer", target: "_blank", text });
  } catch {
    return null; // not an address: it stays text
  }
}

/**
 * Marks that follow each other, with the punctuation behind them: they are kept on the line of the
 * character they follow, since a browser may otherwise break a line at every button.
 */
function readMarks(text, at, mark) {
  const nodes = [];
  let next = at;
  while (text[next] === "[" && !readLink(text, next)) {
    const found = sticky(/\[(\d{1,3})\]/y, text, next);
    const node = found && mark(Number(found[1]));
    if (!node) break;
    nodes.push(node);
    next += found[0].length;
  }
  if (!nodes.length) return null;
  const [after] = sticky(/[。，、；：！？）」』》”’.,;:!?)]*/y, text, next);
  return { nodes, after, next: next + after.length };
}

function readBreak(text, at) {
  const found = sticky(/<br\s*\/?>/iy, text, at);
  return found ? { node: el("br"), next: at + found[0].length } : null;
}
