// The chat page: its controls.

import { Chat } from "./chat.js";
import { connect } from "./connection.js";
import { byId } from "./elements.js";
import { closeLibrary, drawLibrary, wireLibrary } from "./library.js";
import { DEFAULTS } from "./settings.js";

const composer = byId("composer");
const prompt = byId("prompt");
const chat = new Chat(() => {
  updateControls();
  drawLibrary(chat);
}, focusPrompt);

function updateControls() {
  byId("send").hidden = chat.busy;
  byId("send").disabled = !prompt.value.trim();
  byId("stop").hidden = !chat.busy;
  const { settings } = chat.conversation;
  const changed = Object.keys(DEFAULTS).filter((name) => (settings[name] ?? DEFAULTS[name]) !== DEFAULTS[name]).length;
  byId("settings-count").textContent = changed ? ` · ${changed}` : "";
  byId("conversation").ariaBusy = String(chat.busy);
  document.title = chat.conversation.title ? `${chat.conversation.title} – Penstock` : "Penstock";
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
  const text = prompt.value.trim();
  if (chat.busy || !text) return;
  prompt.value = "";
  fitPrompt();
  chat.ask(text);
});

prompt.addEventListener("input", fitPrompt);
prompt.addEventListener("keydown", (event) => {
  // An Enter that ends a composition (Japanese, Chinese, …) belongs to the input method.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  composer.requestSubmit();
});

byId("stop").addEventListener("click", () => {
  chat.stop();
  focusPrompt();
});
byId("new").addEventListener("click", focusPrompt);
byId("settings-open").addEventListener("click", () => chat.openSettings());

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (document.body.dataset.library) closeLibrary();
  else if (chat.busy) chat.stop();
});

byId("examples").addEventListener("click", (event) => {
  const example = event.target.closest("button");
  if (!example || chat.busy) return;
  chat.ask(example.textContent);
});

wireLibrary(chat);
fitPrompt();
focusPrompt();
connect();
chat.restore();
drawLibrary(chat);
