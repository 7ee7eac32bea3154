import { citationButton, sourceList, Sources } from "./citations.js";
import { announce, copyText, el, icon } from "./dom.js";
import { label, t } from "./i18n.js";
import { Prose } from "./prose.js";

/**
 * One question and its answer on the page. The answer element's `data-state` is streaming, done,
 * refused or failed; an answer that was stopped is done and carries `data-stopped`.
 */
export class Turn {
  #text = "";
  #sources = new Sources();

  /** `onOpen(passage, opener)` shows a passage in its document; `onRetry(turn)` asks again. */
  constructor({ question, images, onOpen, onRetry }) {
    this.question = question;
    this.images = images;
    this.onOpen = onOpen;
    this.onRetry = onRetry;
    this.answer = el("div", { class: "answer", "data-testid": "answer" });
    this.element = el(
      "article",
      { class: "turn", "data-testid": "turn" },
      el("h2", { class: "asked", text: question, dir: "auto" }),
      images.length ? el("div", { class: "asked-images" }, images.map(picture)) : null,
      this.answer,
    );
    this.restart();
  }

  /** Back to an answer that has not begun. */
  restart() {
    this.#text = "";
    this.#sources = new Sources();
    this.progress = el("p", { class: "progress", "data-testid": "progress", i18n: "searching" });
    this.body = el("div", { class: "prose", "data-testid": "answer-text", "aria-live": "polite", "aria-busy": "true" });
    this.prose = new Prose(this.body, (n, occurrence) => this.#mark(n, occurrence));
    this.answer.replaceChildren(this.progress, this.body);
    this.answer.removeAttribute("data-stopped");
    this.#state = "streaming";
    announce("searching");
  }

  set #state(state) {
    this.answer.dataset.state = state;
  }

  get streaming() {
    return this.answer.dataset.state === "streaming";
  }

  /** Shows one event of the stream. */
  apply({ name, data }) {
    if (name === "retrieved") this.#retrieved(data);
    else if (name === "token") this.#token(data.text);
    else if (name === "cited") this.#sources.cited(data);
    else if (name === "finished") this.#finished(data);
    else if (name === "failed") this.fail(data);
  }

  #retrieved({ hits }) {
    this.#sources.retrieved(hits);
    label(this.progress, "reading", { count: hits.length });
  }

  #token(text) {
    this.#text += text;
    this.progress.hidden = true;
    this.prose.update(this.#text);
  }

  #finished({ answer, refused, citations, model, usage, timings, notice }) {
    this.#text = answer;
    this.#sources.finished(citations);
    this.#end(refused ? "refused" : "done", "whole");
    if (refused) this.answer.prepend(el("p", { class: "refusal-label", "data-testid": "refusal", i18n: "refusal" }));
    if (notice) this.answer.append(noticeOf(notice, model));
    this.#drawSources(refused);
    const tokens = (usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0);
    this.#drawFoot({ model, total: timings?.total, tokens, estimated: usage?.estimated });
    announce("answer_ready");
  }

  /** Ends the answer with what went wrong; the text so far stays. */
  fail({ code, message, hint, retryable }) {
    this.#end("failed");
    const retry = el("button", { type: "button", class: retryable ? "primary" : "secondary", "data-testid": "retry", i18n: "retry" });
    retry.addEventListener("click", () => this.onRetry(this));
    this.answer.append(el(
      "div",
      { class: "failure", role: "alert", "data-testid": "error", "data-code": code },
      el("p", { class: "failure-title", i18n: ["answer_error_title", { code }] }),
      el("p", { class: "failure-message", text: message }),
      hint ? el("p", { class: "failure-hint", text: hint }) : null,
      retry,
    ));
    this.#drawSources(false);
  }

  /** The reader stopped it: what is there stays, and says so. */
  stop() {
    this.answer.dataset.stopped = "";
    this.#end("done");
    this.answer.append(el("p", { class: "notice", "data-testid": "notice", i18n: "stopped" }));
    this.#drawSources(false);
    if (this.#text) this.#drawFoot({});
    announce("stopped");
  }

  #end(state, stage = "broken") {
    this.progress.remove();
    this.prose.update(this.#text, stage);
    this.prose.flush();
    this.body.setAttribute("aria-busy", "false");
    this.#state = state;
  }

  #mark(n, occurrence) {
    const sources = this.#sources;
    if (!sources.passage(n, occurrence)) return null;
    return citationButton(n, () => sources.passage(n, occurrence), this.onOpen);
  }

  #drawSources(refused) {
    const { hits, passages } = this.#sources;
    if (refused || !passages.length) {
      if (!hits.length) return;
      const summary = el("summary", { i18n: [refused ? "closest" : "found", { count: hits.length }] });
      this.answer.append(el("details", { class: "closest" }, summary, sourceList(hits, this.onOpen)));
      return;
    }
    const title = el("h3", { class: "sources-title", i18n: "sources" });
    this.answer.append(el("section", { class: "sources", "data-testid": "sources" }, title, sourceList(passages, this.onOpen)));
  }

  #drawFoot(meta) {
    const word = el("span", { i18n: "copy" });
    const copy = el("button", { type: "button", class: "plain small", "data-testid": "copy" }, icon("copy"), word);
    copy.addEventListener("click", () => this.#copy(word));
    const facts = el("span", { class: "facts", "data-testid": "facts", i18n: ["timing", meta] });
    this.answer.append(el("footer", { class: "foot" }, copy, facts));
  }

  async #copy(word) {
    const places = this.#sources.passages.map((passage) =>
      [`[${passage.n}] ${passage.document}`, t("place", passage)].filter(Boolean).join(" · "));
    const text = [this.#text.trim(), [...new Set(places)].join("\n")].filter(Boolean).join("\n\n");
    try {
      await copyText(text);
      label(word, "copied");
      announce("copied");
    } catch {
      label(word, "copy_failed"); // the browser forbids it; the text can still be selected
    }
    setTimeout(() => label(word, "copy"), 2000);
  }
}

function picture(source, index) {
  const image = el("img", { src: source });
  label(image, "image", { n: index + 1 }, "label");
  return image;
}

/** The server words a notice in the language of the question; the one the page knows follows its own. */
function noticeOf(notice, model) {
  const words = model === "extractive" ? { i18n: "notice_extractive" } : { text: notice };
  return el("p", { class: "notice", "data-testid": "notice", ...words });
}
