import { asApiError, ask, isAbort } from "./api.js";
import { Composer } from "./composer.js";
import { byId, el } from "./dom.js";
import { t } from "./i18n.js";
import { baseName, uuid } from "./text.js";
import { Turn } from "./turn.js";

const STARTERS = 5;
const HISTORY = 100; // messages, the most that a question may bring

/** The conversation: its turns, one at a time, in one session. */
export class Chat {
  #list = byId("conversation");
  #welcome = byId("welcome");
  #scroll = byId("conversation-scroll");
  #session = uuid();
  #running = null; // AbortController of the answer being written
  #turn = null;
  #turns = [];
  #documents = [];

  /** `app.knowledgeBase` and `choices` are read for each question; `onOpen` as in Turn. */
  constructor({ app, choices, onOpen }) {
    this.app = app;
    this.choices = choices;
    this.onOpen = onOpen;
    this.composer = new Composer({ onAsk: (asked) => this.#ask(asked), onStop: () => this.stop() });
    this.#scroll.addEventListener("wheel", () => this.#unfollow(), { passive: true });
    this.#scroll.addEventListener("touchmove", () => this.#unfollow(), { passive: true });
    document.addEventListener("languagechanged", () => this.#drawWelcome());
  }

  /** The documents that an empty conversation offers to start from. */
  set documents(documents) {
    this.#documents = documents;
    this.#drawWelcome();
  }

  /** Ends this conversation and starts an empty one. */
  reset() {
    this.#running?.abort();
    this.#running = null;
    this.#turn = null;
    this.#turns.forEach((turn) => turn.leave());
    this.#turns = [];
    this.#session = uuid();
    this.#list.replaceChildren();
    this.composer.busy = false;
    this.#drawWelcome();
    this.composer.invite();
  }

  stop() {
    this.#running?.abort();
  }

  #ask({ question, images }) {
    const turn = new Turn({ question, images, onOpen: this.onOpen, onRetry: (...again) => this.#again(...again) });
    this.#turns.push(turn);
    this.#list.append(turn.element);
    this.#drawWelcome();
    this.#run(turn);
  }

  /** Asks a question once more; what was said since, and the answer it had, are not told to the model. */
  #again(turn, more = {}) {
    const before = this.#turns.slice(0, this.#turns.indexOf(turn)).flatMap((earlier) => earlier.messages);
    this.#run(turn, { ...more, history: before.slice(-HISTORY) });
    this.composer.invite();
  }

  async #run(turn, more = {}) {
    if (this.#running) return;
    const controller = new AbortController();
    this.#running = controller;
    this.#turn = turn;
    this.following = true;
    if (!turn.streaming) turn.restart();
    this.composer.busy = true;
    this.#follow();
    try {
      for await (const event of ask({ ...this.#request(turn), ...more }, controller.signal)) {
        if (controller.signal.aborted) break;
        if (event.name === "finished" && event.data.session_id) this.#session = event.data.session_id;
        turn.apply(event);
        this.#follow();
      }
      if (controller.signal.aborted) turn.stop();
    } catch (error) {
      if (isAbort(error)) turn.stop();
      else turn.fail(asApiError(error));
    }
    if (this.#running !== controller) return; // a new conversation has begun meanwhile
    this.#running = null;
    this.composer.busy = false;
    this.choices.refresh();
    this.#follow();
  }

  #request({ question, images }) {
    return {
      question,
      session_id: this.#session,
      ...(this.app.knowledgeBase && { knowledge_base: this.app.knowledgeBase }),
      ...(images.length && { images }),
      ...this.choices.asked,
    };
  }

  #unfollow() {
    this.following = false;
  }

  /** Scrolls along with the answer until its question has reached the top, and then lets it be read. */
  #follow() {
    if (!this.following || !this.#turn) return;
    requestAnimationFrame(() => {
      const top = this.#turn?.element.offsetTop ?? 0;
      const bottom = this.#scroll.scrollHeight - this.#scroll.clientHeight;
      this.#scroll.scrollTop = Math.min(bottom, top - 16);
    });
  }

  #drawWelcome() {
    this.#welcome.hidden = this.#list.childElementCount > 0;
    if (this.#welcome.hidden) return;
    this.#welcome.replaceChildren(
      el("h2", { class: "welcome-title", i18n: "welcome_title" }),
      el("p", { class: "welcome-text", i18n: "welcome_text" }),
      ...(this.app.failure ? [] : this.#starters()),
    );
  }

  #starters() {
    if (!this.app.loaded) return [];
    if (!this.#documents.length) {
      const add = el("a", { href: "#/documents", i18n: "welcome_add" });
      const empty = el("span", { i18n: "welcome_empty" });
      return [el("p", { class: "welcome-start", "data-testid": "no-documents" }, empty, " ", add)];
    }
    const items = this.#documents.slice(0, STARTERS).map((document) => {
      const title = document.title || baseName(document.name);
      const button = el(
        "button",
        { type: "button", class: "starter", "data-testid": "starter", i18nLabel: ["starter_title", { title }] },
        el("span", { class: "starter-title", text: title }),
        el("span", { class: "starter-type", text: document.type }),
      );
      button.addEventListener("click", () => this.composer.fill(t("starter", { title })));
      return el("li", {}, button);
    });
    return [el("h3", { class: "welcome-start", i18n: "welcome_start" }), el("ul", { class: "starters" }, items)];
  }
}
