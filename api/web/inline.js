import { el } from "./dom.js";

/**
 * Markdown inside a line -> DOM nodes: bold, italic, code, links (http and https only), citation
 * marks and line breaks. `mark(n)` gives the node for [n], or null if there is no source n.
 */
export function renderInline(text, mark, depth = 0) {
  const nodes = [];
  let plain = "";
  const push = (node) => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
    nodes.push(node);
  };
  let at = 0;
  while (at < text.length) {
    const found = readSpecial(text, at, mark, depth);
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

function readSpecial(text, at, mark, depth) {
  switch (text[at]) {
    case "\\":
      return /[\\`*_[\]()#|~!>-]/.test(text[at + 1] ?? "") ? { text: text[at + 1], next: at + 2 } : null;
    case "`":
      return readCode(text, at);
    case "*":
    case "_":
      return depth < DEEPEST ? readEmphasis(text, at, mark, depth) : null;
    case "!":
      return text[at + 1] === "[" ? readLink(text, at + 1) : null; // no picture is loaded from afar
    case "[":
      return readLink(text, at) ?? readMark(text, at, mark);
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

function readEmphasis(text, at, mark, depth) {
  const sign = text[at];
  const double = text[at + 1] === sign;
  const fence = double ? sign + sign : sign;
  const start = at + fence.length;
  if (!text[start] || /\s/.test(text[start])) return { text: fence, next: start };
  if (sign === "_" && WORD.test(text[at - 1] ?? "")) return { text: fence, next: start };
  const end = closing(text, fence, start);
  if (end < 0) return { text: fence, next: start };
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

function readMark(text, at, mark) {
  const found = sticky(/\[(\d{1,3})\]/y, text, at);
  const node = found && mark(Number(found[1]));
  return node ? { node, next: at + found[0].length } : null;
}

function readBreak(text, at) {
  const found = sticky(/<br\s*\/?>/iy, text, at);
  return found ? { node: el("br"), next: at + found[0].length } : null;
}
