import { asApiError, getStatus } from "./api.js";
import { Chat } from "./chat.js";
import { Choices } from "./choices.js";
import { Documents, failure } from "./documents.js";
import { byId, el } from "./dom.js";
import { applyLanguage, label, switchLanguage, t, unlabel } from "./i18n.js";
import { Panel } from "./panel.js";

const app = { knowledgeBase: "", loaded: false, failure: null, readsImages: false, ocr: false };

applyLanguage();
const panel = new Panel({ app });
const open = (passage, opener) => panel.open(passage, opener);
const choices = new Choices({ onChange: showChoices });
const chat = new Chat({ app, choices, onOpen: open });
const documents = new Documents({
  app,
  onOpen: open,
  onChange: (list) => {
    app.loaded = true;
    chat.documents = list;
  },
  onDeleted: (id) => id === panel.documentId && panel.close(),
});

async function loadStatus() {
  try {
    showStatus(await getStatus());
    app.failure = null;
    chat.documents = [];
    await Promise.all([choices.load(), documents.load()]);
  } catch (error) {
    app.failure = asApiError(error);
    chat.documents = [];
    byId("welcome").append(failure(app.failure, loadStatus));
  }
}

function showStatus({ model, knowledge_bases: bases }) {
  const name = byId("model");
  if (model?.extractive) label(name, "model_extractive");
  else {
    unlabel(name);
    name.textContent = model?.name ?? "";
  }
  app.readsImages = Boolean(model?.reads_images);
  app.ocr = Boolean(model?.ocr);
  showChoices();
  showBases(bases ?? []);
}

/** The model at the top is the one that answers where no other can be chosen. */
function showChoices() {
  byId("model").hidden = choices.offersModels;
  chat.composer.readsImages = choices.sees === undefined ? app.readsImages : choices.sees || app.ocr;
}

function showBases(bases) {
  if (!bases.some((base) => base.name === app.knowledgeBase)) app.knowledgeBase = bases[0]?.name ?? "";
  byId("base").hidden = bases.length < 2;
  byId("base-select").replaceChildren(...bases.map(({ name }) => el("option", { value: name, text: name })));
  byId("base-select").value = app.knowledgeBase;
}

function showLanguage() {
  const button = byId("language");
  button.textContent = t("other_language");
  button.lang = t("other_language") === "English" ? "en" : "zh-CN";
  button.title = t("switch_language");
}

function showView() {
  const view = location.hash === "#/documents" ? "documents" : "chat";
  for (const name of ["chat", "documents"]) {
    byId(name).hidden = name !== view;
    if (name === view) byId(`tab-${name}`).setAttribute("aria-current", "page");
    else byId(`tab-${name}`).removeAttribute("aria-current");
  }
  byId("new-chat").hidden = view !== "chat";
}

byId("language").addEventListener("click", switchLanguage);
document.addEventListener("languagechanged", showLanguage);
byId("new-chat").addEventListener("click", () => {
  panel.close();
  chat.reset();
});
byId("base-select").addEventListener("change", (event) => {
  app.knowledgeBase = event.target.value;
  panel.close();
  chat.reset();
  documents.load();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash names the view
  location.hash = "#/";
  chat.composer.focus();
});
addEventListener("hashchange", showView);

showLanguage();
showView();
chat.composer.invite();
loadStatus();
