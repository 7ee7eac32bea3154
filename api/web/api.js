import { t } from "./i18n.js";
import { SseParser } from "./sse.js";

/** What the server said went wrong, or that it could not be reached (code "connection"). */
export class ApiError extends Error {
  constructor({ code = "error", message, hint = "", retryable = false }) {
    super(message);
    this.code = code;
    this.hint = hint;
    this.retryable = retryable;
  }
}

const connectionError = () =>
  new ApiError({
    code: "connection",
    message: t("connection_message"),
    hint: t("connection_hint"),
    retryable: true,
  });

export const isAbort = (error) => error.name === "AbortError";

export function asApiError(error) {
  if (error instanceof ApiError) return error;
  return new ApiError({ message: String(error.message ?? error) });
}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (isAbort(error)) throw error;
    throw connectionError();
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  const body = await response.json().catch(() => null); // a proxy may answer in HTML
  const error = body?.error;
  if (error?.message) return new ApiError(error);
  const code = response.status === 404 ? "not_found" : "error";
  return new ApiError({ code, message: t("http_message", { status: response.status }), retryable: response.status >= 500 });
}

async function json(path, options) {
  const response = await send(path, options);
  try {
    return await response.json();
  } catch (error) {
    if (isAbort(error)) throw error;
    throw connectionError();
  }
}

const LAST = new Set(["finished", "held", "failed"]);
const base = (name) => (name ? `?knowledge_base=${encodeURIComponent(name)}` : "");
const documentPath = (id, name) => `/documents/${encodeURIComponent(id)}${base(name)}`;

export const getStatus = () => json("/status");
export const getModels = () => json("/models");
export const getReview = (id, signal) => json(`/reviews/${encodeURIComponent(id)}`, { signal, cache: "no-store" });
export const listDocuments = (name) => json(`/documents${base(name)}`);
export const getDocument = (id, name, signal) => json(documentPath(id, name), { signal });
export const deleteDocument = (id, name) => json(documentPath(id, name), { method: "DELETE" });

export function uploadDocuments(files, name) {
  const form = new FormData();
  if (name) form.append("knowledge_base", name);
  files.forEach((file) => form.append("files", file, file.name));
  return json("/documents", { method: "POST", body: form });
}

/**
 * Asks, and yields the events of the answer as {name, data}. Ends after "finished", "held" or
 * "failed"; throws ApiError if the stream breaks off before, and AbortError when `signal` fires.
 */
export async function* ask(question, signal) {
  const response = await send("/ask", {
    method: "POST",
    headers: { "Content-Type": "application/json", Accept: "text/event-stream" },
    body: JSON.stringify({ ...question, stream: true }),
    signal,
  });
  const events = [];
  const parser = new SseParser(({ name, data }) => events.push({ name, data: JSON.parse(data) }));
  const decoder = new TextDecoder();
  const reader = response.body.getReader();
  try {
    for (;;) {
      const { done, value } = await readPiece(reader);
      parser.feed(done ? decoder.decode() : decoder.decode(value, { stream: true }));
      while (events.length) {
        const event = events.shift();
        yield event;
        if (LAST.has(event.name)) return;
      }
      if (done) throw connectionError();
    }
  } finally {
    reader.cancel().catch(() => {}); // already closed, or aborted
  }
}

async function readPiece(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (isAbort(error)) throw error;
    throw connectionError();
  }
}
