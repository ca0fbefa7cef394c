// The list of conversations that are kept in this browser: open, remove, import, export.

import { announce, button, byId, download, element } from "./elements.js";
import { store } from "./store.js";
import { checked, VERSION } from "./tree.js";

const list = byId("conversations");
const LARGEST_FILE = 64 * 2 ** 20;

/** Draws the list; `chat` is what opens a conversation. */
export async function drawLibrary(chat) {
  const all = await store.all();
  const focused = document.activeElement.closest("#conversations li")?.dataset.id;
  list.replaceChildren(...all.map((each) => entry(each, chat)));
  if (focused) (list.querySelector(`li[data-id="${CSS.escape(focused)}"] button`) ?? list.querySelector("button") ?? byId("new")).focus();
  byId("library-empty").hidden = all.length > 0;
  byId("export").disabled = all.length === 0;
}

function entry(conversation, chat) {
  const item = element("li");
  item.dataset.id = conversation.id;
  const open = button(conversation.title || "Untitled", () => choose(conversation.id, chat), "entry");
  if (conversation.id === chat.conversation.id) open.ariaCurrent = "true";
  const remove = button("×", () => discard(conversation, chat, remove), "link remove", `Delete “${conversation.title}”`);
  item.append(open, ...(chat.isRunning(conversation.id) ? [runningMark()] : []), remove);
  return item;
}

function runningMark() {
  const mark = element("span", "running");
  mark.role = "img";
  mark.title = "Being answered";
  mark.ariaLabel = mark.title;
  return mark;
}

function choose(id, chat) {
  closeLibrary();
  if (id !== chat.conversation.id) chat.open(id);
}

/** Asks once more, on the button itself. */
async function discard(conversation, chat, remove) {
  if (!remove.dataset.sure) {
    remove.dataset.sure = "yes";
    remove.textContent = "Delete?";
    remove.addEventListener("blur", () => {
      delete remove.dataset.sure;
      remove.textContent = "×";
    }, { once: true });
    return;
  }
  chat.discard(conversation.id); // first, or an answer under way would keep it again
  await store.remove(conversation.id);
  drawLibrary(chat);
  announce("Deleted");
}

export function openLibrary() {
  document.body.dataset.library = "open";
  byId("library-close").focus();
}

export function closeLibrary() {
  delete document.body.dataset.library;
}

export function wireLibrary(chat) {
  byId("library-open").addEventListener("click", openLibrary);
  byId("library-close").addEventListener("click", closeLibrary);
  byId("veil").addEventListener("click", closeLibrary);
  byId("new").addEventListener("click", () => {
    closeLibrary();
    chat.begin();
  });
  byId("export").addEventListener("click", async () => {
    const conversations = await store.all();
    download("penstock-conversations.json", JSON.stringify({ version: VERSION, conversations }, null, 1));
  });
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) tell(await take(file).catch((error) => error.message));
    drawLibrary(chat);
  });
}

/** Adds what a file holds; a conversation that is here already is replaced. Gives a sentence about it. */
async function take(file) {
  if (file.size > LARGEST_FILE) throw new Error("This file is too large.");
  let value;
  try {
    value = JSON.parse(await file.text());
  } catch {
    throw new Error("This file is not JSON.");
  }
  const conversations = (Array.isArray(value?.conversations) ? value.conversations : [value]).map(checked);
  for (const conversation of conversations) await store.put(conversation);
  return `${conversations.length} ${conversations.length === 1 ? "conversation" : "conversations"} imported.`;
}

function tell(text) {
  byId("library-note").textContent = text;
}
