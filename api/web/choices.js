import { getModels } from "./api.js";
import { byId, el } from "./dom.js";
import { label } from "./i18n.js";
import { recall, remember } from "./store.js";

const EXTRACTIVE = "extractive";
const NOT_FOR_QUESTIONS = new Set(["code_completion"]); // it continues files

/** Which model answers, and how: two small lists that are there only if there is a choice. */
export class Choices {
  #model = new Choice("model");
  #preset = new Choice("preset");
  #models = [];

  /** `onChange()` is called when there is another choice, or another was made. */
  constructor({ onChange }) {
    this.onChange = onChange;
    this.#model.onChange = onChange;
  }

  /** Asks the server what there is, and how the models stand. */
  async load() {
    try {
      this.#show(await getModels());
    } catch {
      return; // questions can be asked without a choice, and tell what is wrong
    }
    this.onChange();
  }

  /** The models may stand otherwise after an answer. */
  refresh() {
    if (this.offersModels) this.load();
  }

  get offersModels() {
    return this.#model.isThere;
  }

  /** Whether the model that was chosen can see pictures; undefined if none was. */
  get sees() {
    return this.#models.find(({ name }) => name === this.#model.value)?.vision;
  }

  /** What goes with a question. */
  get asked() {
    const [model, preset] = [this.#model.value, this.#preset.value];
    return { ...(model && { model }), ...(preset && { preset }) };
  }

  #show({ default: usual, models, presets }) {
    this.#models = models;
    const quotes = usual === EXTRACTIVE;
    const names = models.map(({ name }) => name);
    this.#model.offer(names.length > (quotes ? 0 : 1) ? names : [], quotes ? "model_extractive" : "model_automatic");
    for (const { name, circuit } of models) this.#model.name(name, ["model_choice", { name, open: circuit === "open" }]);
    const ways = presets.filter((name) => !NOT_FOR_QUESTIONS.has(name));
    this.#preset.offer(ways.length > 1 ? ways : [], "preset_usual");
    for (const name of ways) this.#preset.name(name, ["preset_choice", { name }]);
  }
}

/** One list. Its first entry, with the value "", leaves the choice to the server. */
class Choice {
  #options = new Map();

  constructor(name) {
    this.box = byId(`${name}-choice`);
    this.select = this.box.querySelector("select");
    this.select.addEventListener("change", () => {
      remember(name, this.select.value);
      this.onChange?.();
    });
    this.stored = name;
  }

  get isThere() {
    return !this.box.hidden;
  }

  get value() {
    return this.isThere ? this.select.value : "";
  }

  /** Offers these values; the list is left alone, for it may be open, if they are the same. */
  offer(values, usual) {
    this.box.hidden = values.length === 0;
    if (values.join("\n") === [...this.#options.keys()].join("\n")) return;
    this.#options = new Map(values.map((value) => [value, el("option", { value })]));
    this.select.replaceChildren(el("option", { value: "", i18n: usual }), ...this.#options.values());
    const chosen = recall(this.stored);
    this.select.value = this.#options.has(chosen) ? chosen : "";
  }

  name(value, [key, params]) {
    const option = this.#options.get(value);
    if (option) label(option, key, params);
  }
}
