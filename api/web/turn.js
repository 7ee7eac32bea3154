import { asApiError, isAbort } from "./api.js";
import { toolCall } from "./calls.js";
import { citationButton, sourceList, Sources } from "./citations.js";
import { announce, el } from "./dom.js";
import { foot } from "./foot.js";
import { isText, label, t } from "./i18n.js";
import { Prose } from "./prose.js";
import { decided } from "./review.js";

/**
 * One question and its answer on the page. The answer element's `data-state` is streaming, done,
 * refused, failed, held (it waits for a person's approval) or rejected; an answer that was stopped
 * is done and carries `data-stopped`.
 */
export class Turn {
  #text = "";
  #sources = new Sources();
  #timer = 0;
  #waiting = null; // AbortController while the answer is held

  /**
   * `onOpen(passage, opener)` shows a passage in its document; `onRetry(turn, more)` asks again,
   * with `more` in the request.
   */
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
    this.leave();
    this.#text = "";
    this.#sources = new Sources();
    this.calls = el("div", { class: "calls", "data-testid": "tools", hidden: true });
    this.body = el("div", { class: "prose", "data-testid": "answer-text", "aria-live": "polite", "aria-busy": "true" });
    this.progress = el("p", { class: "progress", "data-testid": "progress" });
    this.prose = new Prose(this.body, (n, occurrence) => this.#mark(n, occurrence));
    this.answer.replaceChildren(this.calls, this.body, this.progress);
    this.answer.removeAttribute("data-stopped");
    this.#state = "streaming";
    this.#say("searching");
    announce("searching");
  }

  /** Nobody looks at it any more. */
  leave() {
    clearTimeout(this.#timer);
    this.#waiting?.abort();
    this.#waiting = null;
  }

  set #state(state) {
    this.answer.dataset.state = state;
  }

  get #state() {
    return this.answer.dataset.state;
  }

  get streaming() {
    return this.#state === "streaming";
  }

  /** What a model is told of it later: nothing, unless it came to an end. */
  get messages() {
    if (!["done", "refused"].includes(this.#state) || "stopped" in this.answer.dataset) return [];
    return [{ role: "user", content: this.question }, { role: "assistant", content: this.#text }];
  }

  /** Shows one event of the stream. */
  apply({ name, data }) {
    if (name === "retrieved") this.#retrieved(data);
    else if (name === "token") this.#token(data.text);
    else if (name === "cited") this.#sources.cited(data);
    else if (name === "retried") this.#retried(data);
    else if (name === "tool_used") this.#toolUsed(data);
    else if (name === "held") this.#hold(data);
    else if (name === "finished") this.#finished(data);
    else if (name === "failed") this.fail(data);
  }

  #say(key, params) {
    clearTimeout(this.#timer);
    label(this.progress, key, params);
    this.progress.hidden = false;
  }

  #retrieved({ hits }) {
    this.#sources.retrieved(hits);
    this.#say("reading", { count: hits.length });
  }

  #token(text) {
    clearTimeout(this.#timer);
    this.#text += text;
    this.progress.hidden = true;
    this.prose.update(this.#text);
  }

  #retried(tried) {
    this.#say("retried", tried);
    announce("retried", tried);
    this.#timer = setTimeout(() => this.#say("asking", { model: tried.next_model }), Math.max(tried.wait * 1000, 2000));
  }

  #toolUsed(used) {
    this.calls.hidden = false;
    this.calls.append(toolCall(used));
    this.#say("going_on");
  }

  #finished(answer) {
    const { refused, notice } = answer;
    this.#text = answer.answer;
    this.#sources.finished(answer.citations);
    this.#end(refused ? "refused" : "done", "whole");
    if (refused) this.answer.prepend(el("p", { class: "refusal-label", "data-testid": "refusal", i18n: "refusal" }));
    if (notice) this.answer.append(noticeOf(notice));
    this.#drawSources(refused);
    this.#drawFoot(answer);
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

  async #hold({ review_id: id, reason }) {
    this.#end("held");
    const held = verdict("held", el("p", { i18n: ["held_text", { reason }] }), el("p", { class: "quiet", i18n: ["held_id", { id }] }));
    this.answer.append(held);
    announce("held");
    this.#waiting = new AbortController();
    try {
      const review = await decided(id, this.#waiting.signal);
      held.remove();
      this.#decided(review);
    } catch (error) {
      if (isAbort(error)) return;
      held.remove();
      this.fail(asApiError(error));
    }
  }

  #decided({ state, answer, note }) {
    if (state === "approved") {
      this.answer.prepend(el("p", { class: "notice approved", "data-testid": "approved", i18n: ["approved", { note }] }));
      this.#finished(answer);
      return;
    }
    this.#state = "rejected";
    this.answer.append(verdict("rejected", el("p", { i18n: ["rejected_text", { note }] })));
    announce("rejected");
  }

  #end(state, stage = "broken") {
    clearTimeout(this.#timer);
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
      this.answer.append(el("details", { class: "closest", "data-testid": "found" }, summary, sourceList(hits, this.onOpen)));
      return;
    }
    const title = el("h3", { class: "sources-title", i18n: "sources" });
    this.answer.append(el("section", { class: "sources", "data-testid": "sources" }, title, sourceList(passages, this.onOpen)));
  }

  #drawFoot(answer) {
    const onAnew = () => this.onRetry(this, { cache: false });
    this.answer.append(foot(answer, { text: () => this.#copied(), onAnew }));
  }

  #copied() {
    const places = this.#sources.passages.map((passage) =>
      [`[${passage.n}] ${passage.document}`, t("place", passage)].filter(Boolean).join(" · "));
    return [this.#text.trim(), [...new Set(places)].join("\n")].filter(Boolean).join("\n\n");
  }
}

function picture(source, index) {
  const image = el("img", { src: source });
  label(image, "image", { n: index + 1 }, "label");
  return image;
}

/** What stands in an answer's place while it waits, or for good. */
function verdict(name, ...children) {
  return el("div", { class: "verdict", "data-testid": name }, el("p", { class: "verdict-title", i18n: name }), ...children);
}

/** The server words a notice in the language of the question; the one the page knows follows its own. */
function noticeOf(notice) {
  const words = isText("notice_extractive", notice) ? { i18n: "notice_extractive" } : { text: notice };
  return el("p", { class: "notice", "data-testid": "notice", ...words });
}
