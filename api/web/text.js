/**
 * The server counts Unicode code points, JavaScript strings count UTF-16 units: `CodePoints`
 * turns the one into the other in O(log n), after one pass over the text.
 */
export class CodePoints {
  #astral = []; // code-point index of every character that takes two units

  constructor(text) {
    this.text = text;
    const pair = /[\ud800-\udbff][\udc00-\udfff]/g;
    for (let found = pair.exec(text); found; found = pair.exec(text)) {
      this.#astral.push(found.index - this.#astral.length);
    }
    this.length = text.length - this.#astral.length;
  }

  /** The UTF-16 index of a code-point index; indexes outside the text are moved to its ends. */
  toUnits(index) {
    const point = Math.min(Math.max(index, 0), this.length);
    let low = 0;
    let high = this.#astral.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#astral[middle] < point) low = middle + 1;
      else high = middle;
    }
    return point + low;
  }
}

/** Moves a UTF-16 index back by one if it would cut a character in two. */
export function wholeCharacter(text, index) {
  const unit = text.charCodeAt(index);
  const before = text.charCodeAt(index - 1);
  const inside = unit >= 0xdc00 && unit <= 0xdfff && before >= 0xd800 && before <= 0xdbff;
  return inside ? index - 1 : index;
}

/** Where `quote` stands in `text`, as the occurrence nearest to `near`; -1 if nowhere. */
export function nearestOccurrence(text, quote, near) {
  if (!quote) return -1;
  const after = text.indexOf(quote, near);
  const before = text.lastIndexOf(quote, near);
  if (after < 0 || before < 0) return Math.max(after, before);
  return after - near < near - before ? after : before;
}

/** A quote for a line of the page: without the signs that Markdown puts round words. */
export function readable({ quote, document: name }) {
  if (!/\.(md|markdown)$/i.test(name)) return quote;
  return quote.replace(/\*\*([^*\n]+)\*\*|`([^`\n]+)`/g, "$1$2").replace(/^#{1,6}[ \t]+/gm, "");
}

/** The last part of a document's name, which is a path with "/". */
export function baseName(name) {
  return name.slice(name.lastIndexOf("/") + 1);
}

/** An identifier as `crypto.randomUUID` makes it, which plain-http pages do not have. */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
