// The chat page: what happens when. client.js speaks to the server, view.js draws.

import { apiKey, ChatError, checkReady, listModels, streamChat } from "./client.js";
import { askForKey, scroll, Turn } from "./view.js";

const byId = (id) => document.getElementById(id);
const composer = byId("composer");
const prompt = byId("prompt");

const RECONNECT_SECONDS = 3;
const LONGEST_WAIT_SECONDS = 120; // past that a countdown is no help

let model = null; // the name to ask for, once the server has said it
let turns = [];
let running = null; // the AbortController of the answer that is under way
let connecting = false;
let keyQuestion = null;

// --- The server -----------------------------------------------------------------------------------------------------

function showModel(state, text) {
  byId("model").dataset.state = state;
  byId("model").firstElementChild.textContent = text;
  byId("model").title = text;
}

/** In few words, why there is no answer now. */
function hindrance(error) {
  if (error.lost) return "No connection to the server";
  if (error.status === 429) return "The server is busy";
  if (error.status !== 503) return "The server has a problem";
  // One code stands for every 503, so only the words tell a start from an end.
  return /^the (engine|model) is (starting|loading)/i.test(error.message) ? "The model is still loading" : "The server is not ready";
}

/** Learns the model's name; keeps trying for as long as the server is away or still starting. */
async function connect() {
  if (connecting) return;
  connecting = true;
  try {
    for (;;) {
      try {
        const [name] = await withKey(() => listModels());
        await checkReady();
        model = name;
        showModel("ready", model);
        return;
      } catch (error) {
        if (error.status === 401) return;
        showModel("waiting", hindrance(error));
        await pause(error.retryAfter ?? RECONNECT_SECONDS);
      }
    }
  } finally {
    connecting = false;
  }
}

/** Runs `attempt`, asking for an API key as long as the server wants another one. Throws its 401 if none is given. */
async function withKey(attempt) {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (error.status !== 401) throw error;
      showModel("locked", "API key needed");
      const reason = apiKey.value ? "The server did not accept this key." : "This server answers only with an API key.";
      if (!(await changeKey(reason))) throw error;
    }
  }
}

/** True if a new key was given. One dialog, whoever asks. */
function changeKey(reason) {
  keyQuestion ??= askForKey(reason, apiKey.value !== "").then((key) => {
    keyQuestion = null;
    if (key !== null) apiKey.set(key);
    updateControls();
    return Boolean(key);
  });
  return keyQuestion;
}

byId("key").addEventListener("click", async () => {
  await changeKey("A key that you enter here takes the place of the one in use.");
  await connect();
});

// --- One answer -----------------------------------------------------------------------------------------------------

/** What the model is told: every turn that got an answer, even a broken off one, and then the question. */
function messagesFor(turn) {
  const before = turns.slice(0, turns.indexOf(turn)).filter((earlier) => earlier.answer);
  return [
    ...before.flatMap(({ question, answer }) => [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ]),
    { role: "user", content: turn.question },
  ];
}

async function answer(turn) {
  running = new AbortController();
  const { signal } = running;
  turn.begin();
  updateControls();
  announce("Waiting for the answer");
  try {
    const { meta, finish } = await patiently(turn, signal, () => withKey(() => stream(turn, signal)));
    turn.end("done", meta);
    if (finish === "length") turn.showNotice("The answer was cut off at the length limit.");
    announce(turn.answer);
  } catch (error) {
    turn.hideNotice();
    if (signal.aborted) {
      turn.end("stopped", "stopped");
      announce("Stopped");
    } else {
      fail(turn, error);
    }
  } finally {
    running = null;
    updateControls();
  }
}

/** One request. Returns the finish_reason and the line of figures under the answer. */
async function stream(turn, signal) {
  model ??= (await listModels(signal))[0];
  const body = { model, messages: messagesFor(turn), temperature: Number(byId("temperature").value) };
  const sent = performance.now();
  let first = 0;
  let last = 0;
  let finish = null;
  let tokens = 0;
  for await (const part of streamChat(body, signal)) {
    showModel("ready", model);
    if (part.reasoning) turn.reason();
    if (part.text) {
      last = performance.now();
      first ||= last;
      turn.append(part.text);
    }
    finish = part.finish ?? finish;
    tokens = part.usage?.completion_tokens ?? tokens;
  }
  return { finish, meta: figures({ firstMs: first && first - sent, wholeMs: last - sent, tokens }) };
}

/**
 * First token in milliseconds or seconds; tokens per second of the whole request. Not of the time after the first
 * token: several tokens may arrive together, and for a short answer that span is next to nothing.
 */
function figures({ firstMs, wholeMs, tokens }) {
  const parts = [];
  if (firstMs) parts.push(`first token ${firstMs < 1000 ? `${Math.round(firstMs)} ms` : `${(firstMs / 1000).toFixed(1)} s`}`);
  if (tokens) parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  if (tokens && wholeMs > 0) {
    const rate = (tokens * 1000) / wholeMs;
    parts.push(`${rate < 100 ? rate.toFixed(1) : Math.round(rate)} tokens/s`);
  }
  return parts.join(" · ") || "no text";
}

/** Runs `attempt` again for as long as the server says when to come back, counting down in the turn. */
async function patiently(turn, signal, attempt) {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (!error.retryAfter || error.retryAfter > LONGEST_WAIT_SECONDS) throw error;
      const what = hindrance(error);
      announce(`${what}. Waiting to try again.`);
      for (let left = Math.ceil(error.retryAfter); left > 0; left--) {
        turn.showNotice(`${what}. Trying again in ${left} s.`, { detail: error.message });
        await pause(Math.min(1, error.retryAfter), signal);
      }
      turn.hideNotice();
    }
  }
}

function fail(turn, error) {
  if (!(error instanceof ChatError)) console.error(error); // a mistake in this page: say so, and leave its trace
  const message = error instanceof ChatError ? error.message : "This page made a mistake.";
  const hints = [];
  if (error.code === "context_length_exceeded") hints.push("Clear the conversation to start a new one.");
  if (error.retryAfter) hints.push(`The server asks to wait ${Math.ceil(error.retryAfter / 60)} minutes.`);
  if (error.requestId) hints.push(`Request ${error.requestId}`);
  turn.end("failed", "");
  turn.showNotice(message, { detail: hints.join(" "), action: { label: "Try again", run: () => retry(turn) } });
  announce(message);
  if (error.lost) {
    model = null; // the next server on this address may serve another
    showModel("waiting", hindrance(error));
    connect();
  }
}

function retry(turn) {
  if (running) return;
  focusPrompt();
  answer(turn);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

// --- The controls ---------------------------------------------------------------------------------------------------

function ask(question) {
  if (running || !question.trim()) return;
  const turn = new Turn(question.trim());
  turns.push(turn);
  byId("welcome").hidden = true;
  byId("conversation").append(turn.node);
  scroll.toBottom();
  answer(turn);
}

function clear() {
  running?.abort();
  turns = [];
  byId("conversation").replaceChildren();
  byId("welcome").hidden = false;
  byId("scroller").scrollTop = 0;
  announce("Conversation cleared");
  updateControls();
  focusPrompt();
}

function updateControls() {
  byId("send").hidden = running !== null;
  byId("send").disabled = !prompt.value.trim();
  byId("stop").hidden = running === null;
  byId("clear").disabled = !turns.length;
  byId("key").hidden = !apiKey.value && byId("model").dataset.state !== "locked";
}

function announce(text) {
  byId("announcer").textContent = text;
}

/** On a phone the focus would raise the keyboard over the answer. */
function focusPrompt() {
  if (!matchMedia("(pointer: coarse)").matches) prompt.focus();
}

function fitPrompt() {
  prompt.style.height = "auto";
  prompt.style.height = `${prompt.scrollHeight}px`; // CSS sets the upper limit
  updateControls();
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running || !prompt.value.trim()) return;
  ask(prompt.value);
  prompt.value = "";
  fitPrompt();
  focusPrompt();
});

prompt.addEventListener("input", fitPrompt);
prompt.addEventListener("keydown", (event) => {
  // An Enter that ends a composition (Japanese, Chinese, …) belongs to the input method.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

byId("stop").addEventListener("click", () => {
  running?.abort();
  focusPrompt();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running && !byId("key-dialog").open) running.abort();
});
byId("clear").addEventListener("click", clear);
byId("examples").addEventListener("click", (event) => {
  const example = event.target.closest("button");
  if (!example) return;
  ask(example.textContent);
  focusPrompt();
});

fitPrompt();
focusPrompt();
connect();
