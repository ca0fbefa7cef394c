// The server's API, as far as this page needs it. Every failure leaves here as a ServerError that says in words what
// happened, except an abort, which stays the browser's AbortError.

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

export class ServerError extends Error {
  /** status: of an HTTP answer, else 0. retryAfter: seconds, where trying again later may help, else null.
   *  lost: there may be no server any more. */
  constructor(message, { status = 0, code = null, retryAfter = null, requestId = null, lost = false } = {}) {
    super(message);
    this.name = "ServerError";
    Object.assign(this, { status, code, retryAfter, requestId, lost });
  }
}

/** What the server serves, the first being its own choice; each has an `id`, its name. */
export async function listModels(signal) {
  const response = await request("v1/models", { signal });
  const models = (await readJson(response))?.data?.filter((model) => model?.id) ?? [];
  if (!models.length) throw new ServerError("The server lists no model.");
  return models;
}

/** Returns once the server says that it takes requests; throws its 503 if it does not yet. */
export async function checkReady() {
  await request("ready", {});
}

/** What `fetch` gives for a path relative to the page, so that a server behind a path prefix works too. */
export async function request(path, { headers = {}, ...options }) {
  let response;
  try {
    const authorization = apiKey.value ? { Authorization: `Bearer ${apiKey.value}` } : {};
    response = await fetch(path, { ...options, headers: { ...headers, ...authorization } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?", { lost: true });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const body = await readJson(response);
  const error = body?.error ?? { message: body?.reason }; // /ready gives a reason
  const message = error.message || `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  return new ServerError(message, {
    status: response.status,
    code: error.code ?? null,
    retryAfter: retryAfter(response),
    requestId: response.headers.get("x-request-id"),
  });
}

/** Seconds until a refused request is worth repeating; null where it is not. */
function retryAfter({ status, headers }) {
  if ((status !== 429 && status !== 503) || headers.get("x-should-retry") === "false") return null;
  const seconds = Number(headers.get("retry-after-ms")) / 1000 || Number(headers.get("retry-after"));
  return seconds > 0 ? seconds : null;
}

export async function readJson(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return null; // cut off, or from a proxy that speaks HTML
  }
}
