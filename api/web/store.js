/** What this browser remembers between visits. Storage may be switched off: then nothing is. */

const PREFIX = "knowledge.";

/** The value remembered under `name`, or "". */
export function recall(name) {
  try {
    return localStorage.getItem(PREFIX + name) ?? "";
  } catch {
    return "";
  }
}

/** Remembers `value`; an empty one is forgotten. */
export function remember(name, value) {
  try {
    if (value) localStorage.setItem(PREFIX + name, value);
    else localStorage.removeItem(PREFIX + name);
  } catch {
    // not remembered: storage is switched off in this browser
  }
}
