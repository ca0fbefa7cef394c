// The server's OpenAI API, as far as a chat needs it. Every failure leaves here as a ChatError that says in words what
// happened, except an abort, which stays the browser's AbortError.

import { readEvents } from "./sse.js";

const KEY_NAME = "penstock-api-key";

/** The API key lives in this tab only: in sessionStorage, or until a reload where the browser refuses that. */
export const apiKey = {
  value: stored(() => sessionStorage.getItem(KEY_NAME)) ?? "",

  /** An empty key forgets the one in use. */
  set(key) {
    this.value = key;
    stored(() => (key ? sessionStorage.setItem(KEY_NAME, key) : sessionStorage.removeItem(KEY_NAME)));
  },
};

function stored(access) {
  try {
    return access();
  } catch {
    return null; // storage is switched off
  }
}

export class ChatError extends Error {
  /** status: of an HTTP answer, else 0. retryAfter: seconds, where trying again later may help, else null.
   *  lost: there may be no server any more. */
  constructor(message, { status = 0, code = null, retryAfter = null, requestId = null, lost = false } = {}) {
    super(message);
    this.name = "ChatError";
    Object.assign(this, { status, code, retryAfter, requestId, lost });
  }
}

/** The names the server serves, the first being its own choice. */
export async function listModels(signal) {
  const response = await request("v1/models", { signal });
  const models = (await readJson(response))?.data?.map((model) => model?.id) ?? [];
  if (!models.length) throw new ChatError("The server lists no model.");
  return models;
}

/** Returns once the server says that it takes requests; throws its 503 if it does not yet. */
export async function checkReady() {
  await request("ready", {});
}

/**
 * Streams one answer. Yields `{text}` as it comes, `{reasoning}` before it, `{finish}` with the finish_reason and `{usage}`.
 * Throws a ChatError if the answer is not brought to its end, whatever the reason.
 */
export async function* streamChat(body, signal) {
  const response = await request("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  const requestId = response.headers.get("x-request-id");
  if (!response.headers.get("content-type")?.includes("text/event-stream")) {
    await response.body?.cancel();
    throw new ChatError("The answer is not a stream. Is there a proxy between this page and the server?", { requestId });
  }
  let finished = false;
  try {
    for await (const { data } of readEvents(response.body)) {
      if (data === "[DONE]") break;
      for (const part of partsOf(parseChunk(data, requestId))) {
        finished ||= "finish" in part;
        yield part;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof ChatError) throw error;
    throw new ChatError("The connection to the server was lost in the middle of the answer.", { requestId, lost: true });
  }
  if (!finished) throw new ChatError("The stream ended before the answer was complete.", { requestId });
}

function parseChunk(data, requestId) {
  let chunk;
  try {
    chunk = JSON.parse(data);
  } catch {
    throw new ChatError("The server sent something that is no chat completion.", { requestId });
  }
  if (chunk?.error) {
    const { message, code } = chunk.error;
    throw new ChatError(message || "The server ended the answer with an error.", { code, requestId });
  }
  return chunk;
}

function* partsOf(chunk) {
  const choice = chunk?.choices?.[0];
  if (choice?.delta?.reasoning_content) yield { reasoning: choice.delta.reasoning_content };
  if (choice?.delta?.content) yield { text: choice.delta.content };
  if (choice?.finish_reason) yield { finish: choice.finish_reason };
  if (chunk?.usage) yield { usage: chunk.usage };
}

async function request(path, { headers = {}, ...options }) {
  let response;
  try {
    // Relative to the page, so that a server behind a path prefix works too.
    const authorization = apiKey.value ? { Authorization: `Bearer ${apiKey.value}` } : {};
    response = await fetch(path, { ...options, headers: { ...headers, ...authorization } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ChatError("The server cannot be reached. Is it still running?", { lost: true });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const body = await readJson(response);
  const error = body?.error ?? { message: body?.reason }; // /ready gives a reason
  const message = error.message || `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  return new ChatError(message, {
    status: response.status,
    code: error.code ?? null,
    retryAfter: retryAfter(response),
    requestId: response.headers.get("x-request-id"),
  });
}

/** Seconds until a refused request is worth repeating; null where it is not. */
function retryAfter({ status, headers }) {
  if ((status !== 429 && status !== 503) || headers.get("x-should-retry") === "false") return null;
  const milliseconds = Number(headers.get("retry-after-ms"));
  const seconds = milliseconds > 0 ? milliseconds / 1000 : Number(headers.get("retry-after"));
  return seconds > 0 ? seconds : null;
}

async function readJson(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return null;
  }
}
