import { asApiError, deleteDocument, listDocuments, uploadDocuments } from "./api.js";
import { acceptDrops, announce, byId, el, icon } from "./dom.js";
import { formatDate, formatNumber, formatSize, label, t } from "./i18n.js";
import { baseName } from "./text.js";

const FIRST = 200; // rows drawn before "show more"
const FILTER_FROM = 8; // fewer documents need no filter
const OUTCOMES = ["failed", "added", "changed", "unchanged", "removed"];

/** The list of documents, with adding and deleting. */
export class Documents {
  #documents = null; // null until the first answer
  #shown = FIRST;
  #filter = "";

  /** `onOpen(passage, opener)` shows a document; `onChange(documents)` follows every new list. */
  constructor({ app, onOpen, onChange, onDeleted }) {
    this.app = app;
    this.onOpen = onOpen;
    this.onChange = onChange;
    this.onDeleted = onDeleted;
    this.#build();
    acceptDrops(byId("documents"), (files) => this.#upload(files));
    document.addEventListener("languagechanged", () => this.#draw());
  }

  #build() {
    this.input = el("input", { type: "file", multiple: true, hidden: true, "data-testid": "upload" });
    this.input.addEventListener("change", () => {
      this.#upload([...this.input.files]);
      this.input.value = "";
    });
    this.add = el("button", { type: "button", class: "primary", "data-testid": "upload-button" }, icon("upload"), el("span", { i18n: "upload" }));
    this.add.addEventListener("click", () => this.input.click());
    this.count = el("p", { class: "documents-count" });
    this.results = el("div", { class: "results", "aria-live": "polite" });
    this.search = el("input", { type: "search", class: "filter", "data-testid": "filter", hidden: true });
    label(this.search, "documents_filter", {}, "placeholder");
    label(this.search, "documents_filter", {}, "label");
    this.search.addEventListener("input", () => {
      this.#filter = this.search.value.trim().toLowerCase();
      this.#shown = FIRST;
      this.#draw();
    });
    this.list = el("div", { class: "documents-list" });
    byId("documents-column").append(
      el("div", { class: "documents-head" }, el("div", {}, el("h2", { i18n: "documents_title" }), this.count), this.add, this.input),
      this.results,
      this.search,
      this.list,
    );
  }

  async load() {
    const asked = this.app.knowledgeBase;
    try {
      const { documents } = await listDocuments(asked);
      if (asked !== this.app.knowledgeBase) return; // another one was chosen meanwhile
      this.#documents = [...documents].sort((a, b) => a.name.localeCompare(b.name, "zh"));
      this.#draw();
      this.onChange(documents);
    } catch (error) {
      this.list.replaceChildren(failure(asApiError(error), () => this.load()));
    }
  }

  #draw() {
    if (!this.#documents) return;
    const chunks = this.#documents.reduce((sum, document) => sum + document.chunks, 0);
    label(this.count, "documents_count", { documents: this.#documents.length, chunks });
    this.count.hidden = this.#documents.length === 0;
    this.search.hidden = this.#documents.length < FILTER_FROM && !this.#filter;
    if (!this.#documents.length) {
      this.list.replaceChildren(emptyState());
      return;
    }
    const matching = this.#documents.filter(({ name, title }) => `${name} ${title}`.toLowerCase().includes(this.#filter));
    this.list.replaceChildren(
      matching.length ? this.#table(matching.slice(0, this.#shown)) : el("p", { class: "quiet", i18n: "documents_none" }),
      ...(matching.length > this.#shown ? [this.#rest(matching.length - this.#shown)] : []),
      el("p", { class: "quiet drop-hint", i18n: "documents_drop" }),
    );
  }

  #rest(count) {
    const button = el("button", { type: "button", class: "secondary more", i18n: ["documents_rest", { count: Math.min(count, FIRST) }] });
    button.addEventListener("click", () => {
      this.#shown += FIRST;
      this.#draw();
    });
    return button;
  }

  #table(documents) {
    const head = ["name", "type", "size", "chunks", "updated"].map((column) =>
      el("th", { scope: "col", class: `col-${column}`, i18n: `col_${column}` }));
    return el(
      "table",
      { class: "files" },
      el("thead", {}, el("tr", {}, head, el("th", { class: "col-delete" }, el("span", { class: "sr", i18n: "delete" })))),
      el("tbody", {}, documents.map((document) => this.#row(document))),
    );
  }

  #row(document) {
    const own = baseName(document.name);
    const title = [own, own.replace(/\.\w+$/, "")].includes(document.title) ? "" : document.title;
    const open = el("button", { type: "button", class: "file-open", title: document.name },
      el("span", { class: "file-name", text: document.name }),
      title ? el("span", { class: "file-title", text: title }) : null);
    open.addEventListener("click", () => this.onOpen({ document_id: document.id, document: document.name }, open));
    const remove = el("button", { type: "button", class: "tool", "data-testid": "delete", i18nLabel: ["delete_one", { name: document.name }] }, icon("delete"));
    remove.addEventListener("click", () => this.#delete(document));
    return el(
      "tr",
      { "data-testid": "document-row", "data-id": document.id },
      el("td", { class: "col-name" }, open),
      el("td", { class: "col-type" }, el("span", { class: "type", text: document.type })),
      el("td", { class: "col-size", text: formatSize(document.size) }),
      el("td", { class: "col-chunks", text: formatNumber(document.chunks) }),
      el("td", { class: "col-updated" }, el("time", { datetime: document.updated_at, text: formatDate(document.updated_at) })),
      el("td", { class: "col-delete" }, remove),
    );
  }

  async #upload(files) {
    if (!files.length || this.add.disabled) return;
    this.add.disabled = true;
    this.results.replaceChildren(el("p", { class: "progress", "data-testid": "uploading", i18n: ["uploading", { count: files.length }] }));
    try {
      this.#drawResults(await uploadDocuments(files, this.app.knowledgeBase));
      await this.load();
    } catch (error) {
      this.results.replaceChildren(failure(asApiError(error), () => this.#upload(files)));
    } finally {
      this.add.disabled = false;
    }
  }

  #drawResults(report) {
    const lines = OUTCOMES.flatMap((outcome) => (report[outcome] ?? []).map((entry) => resultLine(outcome, entry)));
    const dismiss = el("button", { type: "button", class: "plain small", i18n: "dismiss" });
    dismiss.addEventListener("click", () => {
      this.results.replaceChildren();
      this.add.focus();
    });
    const list = el("ul", { class: "result-lines" }, lines);
    label(list, "upload_results", {}, "label");
    this.results.replaceChildren(el("div", { class: "result-box", "data-testid": "upload-results" }, list, dismiss));
  }

  async #delete(document) {
    if (!(await confirmed("delete_confirm", { name: document.name }))) return;
    try {
      await deleteDocument(document.id, this.app.knowledgeBase);
      announce("deleted", { name: document.name });
      this.onDeleted(document.id);
      await this.load();
      this.add.focus();
    } catch (error) {
      this.results.replaceChildren(failure(asApiError(error), () => this.#delete(document)));
    }
  }
}

function resultLine(outcome, entry) {
  const { name, reason, hint } = typeof entry === "string" ? { name: entry } : entry;
  return el(
    "li",
    { class: `result ${outcome}`, "data-testid": "upload-result", "data-outcome": outcome },
    el("span", { class: "result-name", text: name }),
    el("span", { class: "result-outcome", i18n: `upload_${outcome}` }),
    reason ? el("span", { class: "result-reason", text: [reason, hint].filter(Boolean).join(" ") }) : null,
  );
}

function emptyState() {
  return el(
    "div",
    { class: "empty", "data-testid": "documents-empty" },
    icon("upload"),
    el("h3", { i18n: "documents_empty" }),
    el("p", { i18n: "documents_empty_text" }),
  );
}

/** What went wrong, with a button that tries again. */
export function failure(error, onRetry) {
  const retry = el("button", { type: "button", class: "secondary", i18n: "retry" });
  retry.addEventListener("click", onRetry);
  return el(
    "div",
    { class: "failure", role: "alert", "data-testid": "error", "data-code": error.code },
    el("p", { class: "failure-title", i18n: ["error_title", { code: error.code }] }),
    el("p", { text: error.message }),
    error.hint ? el("p", { class: "failure-hint", text: error.hint }) : null,
    retry,
  );
}

/** Asks yes or no in the page's own dialog. */
function confirmed(key, params) {
  const dialog = byId("confirm");
  byId("confirm-text").textContent = t(key, params);
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}
