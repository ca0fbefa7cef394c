// Which server this page talks to: the model's name in the header, the API key, and waiting for a server that is away.

import { apiKey, checkReady, listModels } from "./client.js";
import { byId } from "./elements.js";
import { pause } from "./stream.js";

const RECONNECT_SECONDS = 3;
const badge = byId("model");

let connecting = false;
let question = null;

/** The name to ask for, once the server has said it. */
export let model = null;

/** What the model may be told of how much to reason: values of reasoning_effort. */
export let efforts = [];

export async function modelName(signal) {
  if (!model) learn(await listModels(signal));
  return model;
}

function learn([first]) {
  model = first.id;
  efforts = first.reasoning_efforts ?? [];
}

/** The fields of a request without what this model does not know. */
export function fitting({ reasoning_effort: effort, ...fields }) {
  return efforts.includes(effort) ? { ...fields, reasoning_effort: effort } : fields;
}

export function showModel(state, text) {
  badge.dataset.state = state;
  badge.firstElementChild.textContent = text;
  badge.title = text;
}

/** A part of an answer has come: the server is there. */
export function showReady() {
  if (model && badge.dataset.state !== "ready") showModel("ready", model);
}

/** In few words, why there is no answer now. */
export function hindrance(error) {
  if (error.lost) return "No connection to the server";
  if (error.status === 429) return "The server is busy";
  if (error.status !== 503) return "The server has a problem";
  // One code stands for every 503, so only the words tell a start from an end.
  return /^the (engine|model) is (starting|loading)/i.test(error.message) ? "The model is still loading" : "The server is not ready";
}

/** Learns the model's name; keeps trying for as long as the server is away or still starting. */
export async function connect() {
  if (connecting) return;
  connecting = true;
  try {
    for (;;) {
      try {
        const models = await withKey(() => listModels());
        await checkReady();
        learn(models);
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

/** The server is gone, and the next one on this address may serve another model. */
export function connectAnew(error) {
  model = null;
  showModel("waiting", hindrance(error));
  connect();
}

/** Runs `attempt`, asking for an API key as long as the server wants another one. Throws its 401 if none is given. */
export async function withKey(attempt) {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (error.status !== 401) throw error;
      showModel("locked", "API key needed");
      byId("key").hidden = false;
      const reason = apiKey.value ? "The server did not accept this key." : "This server answers only with an API key.";
      if (!(await changeKey(reason))) throw error;
    }
  }
}

/** True if a new key was given. One dialog, whoever asks. */
function changeKey(reason) {
  question ??= askForKey(reason).then((key) => {
    question = null;
    if (key !== null) apiKey.set(key);
    byId("key").hidden = !apiKey.value && badge.dataset.state !== "locked";
    return Boolean(key);
  });
  return question;
}

/** Resolves to the key, to "" to forget the one that is held, or to null if the user declines. */
function askForKey(reason) {
  const dialog = byId("key-dialog");
  const input = byId("key-input");
  byId("key-reason").textContent = reason;
  byId("key-forget").hidden = !apiKey.value;
  input.value = "";
  if (!dialog.open) dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    let answer = null;
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      answer = input.value.trim() || null;
      dialog.close();
    };
    byId("key-forget").onclick = () => {
      answer = "";
      dialog.close();
    };
    byId("key-cancel").onclick = () => dialog.close();
    dialog.onclose = () => {
      input.value = "";
      resolve(answer);
    };
  });
}

byId("key").hidden = !apiKey.value;
byId("key").addEventListener("click", async () => {
  await changeKey("A key that you enter here takes the place of the one in use.");
  await connect();
});
