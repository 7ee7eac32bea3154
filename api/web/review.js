import { asApiError, getReview, isAbort } from "./api.js";

const FIRST = 3_000; // milliseconds
const LONGEST = 60_000;
const GROWTH = 1.5;

/**
 * The review, as soon as a person has decided it. Asks ever less often, and not at all while the
 * page is out of sight. Throws ApiError if it is not to be had, AbortError when `signal` fires.
 */
export async function decided(id, signal) {
  for (let wait = FIRST; ; wait = Math.min(wait * GROWTH, LONGEST)) {
    await seen(wait, signal);
    const review = await look(id, signal);
    if (review && review.state !== "waiting") return review;
  }
}

async function look(id, signal) {
  try {
    return await getReview(id, signal);
  } catch (error) {
    if (isAbort(error) || !asApiError(error).retryable) throw error;
    return null; // the server may be back the next time
  }
}

/** Waits, while the page is in sight, for `wait`; coming back into sight ends it. */
function seen(wait, signal) {
  return new Promise((resolve, reject) => {
    const ended = new AbortController();
    const end = (settle, value) => {
      clearTimeout(timer);
      ended.abort();
      settle(value);
    };
    const timer = document.hidden ? 0 : setTimeout(() => end(resolve), wait);
    const turned = () => (document.hidden ? clearTimeout(timer) : end(resolve));
    document.addEventListener("visibilitychange", turned, { signal: ended.signal });
    const aborted = () => end(reject, new DOMException("aborted", "AbortError"));
    signal.addEventListener("abort", aborted, { signal: ended.signal });
    if (signal.aborted) aborted();
  });
}
