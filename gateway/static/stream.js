// One answer as it streams, over as many connections as it takes: a connection that breaks is replaced by another one,
// which goes on after the last event that was seen. So an answer outlives a reload of the page and a server that is
// started again; while an engine is started again, the stream only pauses.

import { request, ServerError } from "./client.js";
import { readEvents } from "./sse.js";

const RESUMABLE = { "X-Penstock-Resume": "sse" };
const LONGEST_ABSENCE_MS = 90_000; // of the server; it keeps an unread stream no longer than its --resume-grace
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 4_000;

/**
 * Asks for answers and yields their parts: `{text}`, `{reasoning}`, `{tool}`, `{logprobs}` and `{finish}`, each with the
 * `index` of its answer, `{usage}`, and `{interrupted}` with true and then false where the connection is replaced.
 * `begun` is called with the stream's id, or null where the server offers none. Throws a ServerError if the answers are
 * not brought to their end.
 */
export async function* streamChat(body, signal, begun) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...RESUMABLE },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const id = response.headers.get("x-penstock-stream");
  begun(id);
  yield* follow(response, id, body.n ?? 1, signal);
}

/** The same for a stream that was begun before: from its first event, as nothing else is known of it here. */
export async function* resumeChat(id, answers, signal) {
  yield* follow(await reconnect(id, "", signal), id, answers, signal);
}

/** Ends a stream at the server. One that is not resumable ends with its connection. */
export async function endStream(id) {
  await request(`v1/streams/${encodeURIComponent(id)}`, { method: "DELETE", keepalive: true }).catch(() => {});
}

async function* follow(response, id, answers, signal) {
  const state = { last: "", unfinished: answers, done: false };
  for (;;) {
    const requestId = response.headers.get("x-request-id");
    if (!response.headers.get("content-type")?.includes("text/event-stream")) {
      await response.body?.cancel();
      throw new ServerError("The answer is not a stream. Is there a proxy between this page and the server?", { requestId });
    }
    let broken = false;
    try {
      yield* partsOf(response, state, requestId);
    } catch (error) {
      if (error.name === "AbortError" || (error instanceof ServerError && error.code !== "stream_parked")) throw error;
      broken = true;
    }
    if (state.done || (!state.unfinished && !broken)) return;
    if (!id) throw lostAnswer(broken, requestId);
    yield { interrupted: true };
    response = await reconnect(id, state.last, signal);
    yield { interrupted: false };
  }
}

function lostAnswer(broken, requestId) {
  return broken
    ? new ServerError("The connection to the server was lost in the middle of the answer.", { requestId, lost: true })
    : new ServerError("The stream ended before the answer was complete.", { requestId });
}

async function* partsOf(response, state, requestId) {
  for await (const { data, id } of readEvents(response.body)) {
    state.last = id || state.last;
    if (data === "[DONE]") {
      if (state.unfinished) throw new ServerError("The stream ended before the answer was complete.", { requestId });
      state.done = true;
      return;
    }
    const chunk = parseChunk(data, requestId);
    for (const { index = 0, delta, logprobs, finish_reason: finish } of chunk?.choices ?? []) {
      if (delta?.reasoning_content) yield { index, reasoning: delta.reasoning_content };
      for (const tool of delta?.tool_calls ?? []) yield { index, tool };
      if (logprobs?.content?.length) yield { index, logprobs: logprobs.content };
      if (delta?.content) yield { index, text: delta.content };
      if (finish) {
        state.unfinished--;
        yield { index, finish };
      }
    }
    if (chunk?.usage) yield { usage: chunk.usage };
  }
}

function parseChunk(data, requestId) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ServerError("The server sent something that is no chat completion.", { requestId });
  }
  if (chunk?.error) {
    const { message, code } = chunk.error;
    throw new ServerError(message || "The server ended the answer with an error.", { code, requestId });
  }
  return chunk;
}

/** A new connection to a stream, after event `last`; waits for a server that is away, but not for ever. */
async function reconnect(id, last, signal) {
  const until = Date.now() + LONGEST_ABSENCE_MS;
  for (let wait = FIRST_PAUSE_MS; ; wait = Math.min(2 * wait, LONGEST_PAUSE_MS)) {
    try {
      const headers = { ...RESUMABLE, ...(last ? { "Last-Event-ID": last } : {}) };
      return await request(`v1/streams/${encodeURIComponent(id)}`, { headers, signal });
    } catch (error) {
      const mayHeal = error.lost || error.status >= 500;
      if (error.name === "AbortError" || !mayHeal || Date.now() > until) throw error;
      await pause(wait / 1000, signal);
    }
  }
}

export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
