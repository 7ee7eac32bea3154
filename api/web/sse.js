/**
 * Reads server-sent events from pieces of text that may end anywhere, with LF, CR or CRLF line
 * ends. Each event is handed on as {name, data}, `data` still a string. An event that was not
 * ended by an empty line is dropped, as the standard asks.
 */
export class SseParser {
  #rest = "";
  #name = "";
  #data = [];

  constructor(onEvent) {
    this.onEvent = onEvent;
  }

  feed(piece) {
    let text = this.#rest + piece;
    let held = "";
    if (text.endsWith("\r")) {
      held = "\r"; // its LF may come with the next piece
      text = text.slice(0, -1);
    }
    const lines = text.split(/\r\n|\r|\n/);
    this.#rest = lines.pop() + held;
    lines.forEach((line) => this.#line(line));
  }

  #line(line) {
    if (line === "") {
      if (this.#data.length) this.onEvent({ name: this.#name || "message", data: this.#data.join("\n") });
      this.#name = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment keeps the connection open
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.#name = value;
    else if (field === "data") this.#data.push(value);
  }
}
