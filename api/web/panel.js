import { asApiError, getDocument, isAbort } from "./api.js";
import { byId, el, icon } from "./dom.js";
import { foundNote, Reader } from "./reader.js";
import { baseName } from "./text.js";

const SHEET = matchMedia("(max-width: 899px)"); // as in panel.css

/** Where a document is read: beside the page, or over it on a small screen. */
export class Panel {
  #node = byId("panel");
  #backdrop = byId("backdrop");
  #stage = byId("stage");
  #opener = null;
  #loading = null;
  documentId = null;

  constructor({ app }) {
    this.app = app;
    this.#backdrop.addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.#node.hidden && !document.querySelector("dialog[open]")) this.close();
    });
    SHEET.addEventListener("change", () => this.#setModality());
  }

  /** Opens a document at `passage` (a citation or hit), or at its beginning if that has no range. */
  async open(passage, opener) {
    this.#loading?.abort();
    const controller = new AbortController();
    this.#loading = controller;
    this.#opener = opener;
    this.documentId = passage.document_id;
    this.#drawFrame(passage);
    try {
      const document = await getDocument(passage.document_id, this.app.knowledgeBase, controller.signal);
      this.#drawDocument(document, passage);
    } catch (error) {
      if (isAbort(error)) return;
      this.#drawError(asApiError(error), passage);
    }
  }

  close() {
    if (this.#node.hidden) return;
    this.#loading?.abort();
    this.documentId = null;
    this.#node.hidden = true;
    this.#setModality();
    if (this.#opener?.isConnected) this.#opener.focus({ preventScroll: true });
    else byId("question").focus();
  }

  #drawFrame(passage) {
    const close = el("button", { type: "button", class: "tool", "data-testid": "panel-close", i18nLabel: "panel_close" }, icon("close"));
    close.addEventListener("click", () => this.close());
    this.goTo = el("button", { type: "button", class: "tool", hidden: true, "data-testid": "panel-passage", i18nLabel: "panel_passage" }, icon("target"));
    const title = el("h2", { id: "panel-title", class: "panel-title", tabindex: "-1", text: baseName(passage.document), title: passage.document });
    this.body = el("div", { class: "panel-body", tabindex: "0", "aria-labelledby": "panel-title" }, el("p", { class: "progress", i18n: "panel_loading" }));
    this.#node.replaceChildren(
      el(
        "header",
        { class: "panel-head" },
        passage.n ? el("span", { class: "panel-n", "aria-hidden": "true", text: passage.n }) : null,
        el("div", { class: "panel-names" }, title, el("p", { class: "panel-place", "data-testid": "panel-place", i18n: ["place", passage] })),
        this.goTo,
        close,
      ),
      this.body,
    );
    this.#node.hidden = false;
    this.#setModality();
    title.focus({ preventScroll: true });
  }

  #drawDocument(document, passage) {
    const text = el("div", { class: "document" });
    this.body.replaceChildren(text);
    if (!document.text) {
      text.append(el("p", { class: "progress", i18n: "panel_empty" }));
      return;
    }
    const hasRange = passage.start !== undefined;
    const reader = new Reader(text, document, hasRange ? passage : null);
    const note = foundNote(reader, passage.quote);
    if (note) this.body.prepend(note);
    const show = () => this.#show(reader.marks[0]);
    this.goTo.hidden = reader.marks.length === 0;
    this.goTo.addEventListener("click", show);
    show();
  }

  #show(mark) {
    if (!mark) return;
    const top = mark.getBoundingClientRect().top - this.body.getBoundingClientRect().top;
    this.body.scrollTop += top - this.body.clientHeight / 3;
  }

  #drawError(error, passage) {
    const retry = el("button", { type: "button", class: "secondary", i18n: "retry" });
    retry.addEventListener("click", () => this.open(passage, this.#opener));
    this.body.replaceChildren(
      el(
        "div",
        { class: "failure", role: "alert", "data-testid": "panel-error" },
        el("p", { class: "failure-title", i18n: ["error_title", { code: error.code }] }),
        el("p", { text: error.message }),
        error.hint ? el("p", { class: "failure-hint", text: error.hint }) : null,
        retry,
      ),
    );
    if (passage.quote) this.body.append(el("blockquote", { class: "panel-quote", text: passage.quote }));
  }

  #setModality() {
    const open = !this.#node.hidden;
    const sheet = open && SHEET.matches;
    this.#stage.classList.toggle("with-panel", open);
    this.#backdrop.hidden = !sheet;
    byId("views").inert = sheet;
    document.querySelector(".bar").inert = sheet;
    if (sheet) {
      this.#node.setAttribute("role", "dialog");
      this.#node.setAttribute("aria-modal", "true");
    } else {
      this.#node.removeAttribute("role");
      this.#node.removeAttribute("aria-modal");
    }
  }
}
