import { el } from "./dom.js";

const WORDS = {
  search_knowledge: "call_search",
  calculate: "call_calculate",
  query_database: "call_database",
};

/** What a model had done by a tool: one folded line, which opens to what was given and came back. */
export function toolCall({ name, arguments: written, result, failed }) {
  const given = parsed(written);
  const what = { ...given, name, result: failed || result.includes("\n") ? "" : result };
  return el(
    "details",
    { class: "call", "data-testid": "tool-call", "data-name": name, "data-failed": failed },
    el(
      "summary",
      {},
      el("span", { class: "call-what", i18n: [given && WORDS[name] ? WORDS[name] : "call_other", what] }),
      failed ? el("span", { class: "call-failed", i18n: "call_failed" }) : null,
    ),
    part("call_given", given ? lines(given) : written),
    part("call_result", result),
  );
}

const part = (title, text) => [
  el("p", { class: "call-title", i18n: title }),
  el("pre", { class: "call-text", tabindex: "0", dir: "auto", text }),
];

/** The arguments as an object; null if the model wrote something else. */
function parsed(written) {
  try {
    const found = JSON.parse(written);
    return found && typeof found === "object" && !Array.isArray(found) ? found : null;
  } catch {
    return null;
  }
}

const lines = (given) =>
  Object.entries(given)
    .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join("\n");
