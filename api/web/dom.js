import { label } from "./i18n.js";

export const byId = (id) => document.getElementById(id);

/**
 * Builds an element. `class`, `text` and `on` are special, `i18n` is a key (or [key, params]),
 * `i18nLabel` the same for aria-label and title; everything else is an attribute. Text is always
 * text: nothing on this page parses HTML.
 */
export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "i18n") label(node, ...[value].flat());
    else if (name === "i18nLabel") labelled(node, ...[value].flat());
    else if (name === "on") Object.entries(value).forEach(([type, f]) => node.addEventListener(type, f));
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function labelled(node, key, params) {
  label(node, key, params, "label");
  label(node, key, params, "title");
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the symbols drawn in index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Says something to a screen reader once. */
export function announce(key, params) {
  label(byId("announcer"), key, params);
}

/** Puts text on the clipboard, also on a plain-http page, where `navigator.clipboard` is missing. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { class: "sr", readonly: true });
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("copy refused");
  return undefined;
}

/** Calls `onFiles` with what is dropped on `target`, which has class "dropping" meanwhile. */
export function acceptDrops(target, onFiles) {
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  target.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    target.classList.add("dropping");
  });
  target.addEventListener("dragleave", (event) => {
    if (!target.contains(event.relatedTarget)) target.classList.remove("dropping");
  });
  target.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    target.classList.remove("dropping");
    onFiles([...event.dataTransfer.files]);
  });
}
