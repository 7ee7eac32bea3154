import { announce, copyText, el, icon } from "./dom.js";
import { label } from "./i18n.js";

/**
 * The quiet line below an answer: what wrote it, and what it cost. `text()` is what is copied;
 * `onAnew()` asks again without the cache, and is offered for answers that came from there.
 */
export function foot({ model, cached, usage, timings }, { text, onAnew }) {
  const facts = el("span", { class: "facts", "data-testid": "facts" });
  const known = { model, cached, total: timings?.total, ...usage };
  label(facts, "facts", known);
  if (usage?.prompt_tokens || usage?.completion_tokens) label(facts, "facts_more", known, "title");
  const actions = el("span", { class: "foot-actions" }, copyButton(text), cached ? anewButton(onAnew) : null);
  return el("footer", { class: "foot" }, actions, facts);
}

function copyButton(text) {
  const word = el("span", { i18n: "copy" });
  const button = el("button", { type: "button", class: "plain small", "data-testid": "copy" }, icon("copy"), word);
  button.addEventListener("click", async () => {
    try {
      await copyText(text());
      label(word, "copied");
      announce("copied");
    } catch {
      label(word, "copy_failed"); // the browser forbids it; the text can still be selected
    }
    setTimeout(() => label(word, "copy"), 2000);
  });
  return button;
}

function anewButton(onAnew) {
  const word = el("span", { i18n: "anew" });
  const button = el("button", { type: "button", class: "plain small", "data-testid": "anew" }, icon("again"), word);
  button.addEventListener("click", onAnew);
  return button;
}
