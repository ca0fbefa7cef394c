// The conversation that is open: what questions, edits and new answers do to it, and what of it is shown.

import { Answering } from "./answering.js";
import { apiKey } from "./client.js";
import { connectAnew, model } from "./connection.js";
import { announce, byId, copy } from "./elements.js";
import { openPanel } from "./panel.js";
import { scroll } from "./scroll.js";
import { asCurl, asPython, DEFAULTS, fieldsOf, SettingError } from "./settings.js";
import { store } from "./store.js";
import { add, branches, messagesFor, newConversation, path, select } from "./tree.js";
import { AnswerView, QuestionView } from "./view.js";

const OPEN_NAME = "penstock-conversation"; // in this tab: a reload comes back to it

export class Chat {
  #answering = null;
  #views = new Map();

  /** `changed` is called when there is something new for the controls and the list of conversations. */
  constructor(changed) {
    this.changed = changed;
    this.conversation = newConversation({ ...DEFAULTS });
    this.actions = {
      busy: () => this.busy,
      edit: (node, text) => this.#ask(node.parent, text),
      regenerate: (node) => this.#answer(node.parent),
      retry: (node) => this.#fill(node),
      select: (id) => this.#select(id),
      answerCalls: (node, results) => this.#answerCalls(node, results),
      copyAs: (node, kind, button) => this.#copyAs(node, kind, button),
    };
  }

  get busy() {
    return this.#answering !== null;
  }

  get empty() {
    return this.conversation.nodes.root.children.length === 0;
  }

  /** Takes up the conversation that this tab had open before it was loaded again. */
  async restore() {
    const id = sessionStorageItem();
    const found = id && (await store.get(id));
    if (found && this.empty) this.open(found);
  }

  open(conversation) {
    this.stop();
    this.conversation = conversation;
    remember(conversation.id);
    Object.values(conversation.nodes).forEach(markInterrupted);
    this.#draw();
    scroll.toBottom();
    const unfinished = path(conversation).find((node) => node.role === "assistant" && node.stream);
    if (unfinished) this.#run(unfinished, (answering) => answering.goOn());
    this.changed();
  }

  /** A new conversation, with the settings of this one. */
  begin() {
    this.stop();
    this.conversation = newConversation({ ...this.conversation.settings });
    remember(null);
    this.#draw();
    scroll.toTop();
    announce("New chat");
    this.changed();
  }

  stop() {
    this.#answering?.stop();
    this.#answering = null;
  }

  ask(text) {
    this.#ask(path(this.conversation).at(-1)?.id ?? "root", text);
  }

  openSettings() {
    openPanel(this.conversation.settings, (settings) => {
      this.conversation.settings = settings;
      if (!this.empty) this.#save();
      this.changed();
    });
  }

  #ask(parent, text) {
    if (this.busy || !this.#fields()) return;
    const question = add(this.conversation, parent, { role: "user", content: text });
    this.#answer(question.id);
  }

  #answerCalls(node, results) {
    if (this.busy) return;
    const answers = add(this.conversation, node.id, { role: "tool", results });
    this.#answer(answers.id);
  }

  #answer(parent) {
    if (this.busy) return;
    const node = add(this.conversation, parent, { role: "assistant", state: "waiting" });
    this.#draw();
    scroll.toBottom();
    this.#fill(node);
  }

  #fill(node) {
    const fields = this.#fields();
    if (this.busy || !fields) return;
    const messages = messagesFor(this.conversation, node);
    this.#run(node, (answering) => answering.ask({ messages, ...fields }));
  }

  /** The settings as fields of a request, or null where they cannot be sent: then the panel says why. */
  #fields() {
    try {
      return fieldsOf(this.conversation.settings);
    } catch (error) {
      if (!(error instanceof SettingError)) throw error;
      this.openSettings();
      return null;
    }
  }

  async #run(node, work) {
    const { conversation } = this;
    remember(conversation.id);
    const save = () => conversation.discarded || store.put(conversation).then(() => this.changed());
    const answering = new Answering(node, this.#views.get(node.id), save);
    this.#answering = answering;
    save();
    this.changed();
    await work(answering);
    if (this.#answering === answering) this.#answering = null;
    if (answering.error?.lost) connectAnew(answering.error);
    this.changed();
  }

  #select(id) {
    if (this.busy) return;
    select(this.conversation, id);
    this.#draw();
    this.#save();
  }

  #draw() {
    this.#views.clear();
    const nodes = path(this.conversation);
    for (const node of nodes) {
      const view = node.role === "assistant" ? AnswerView : QuestionView;
      this.#views.set(node.id, new view(node, branches(this.conversation, node), this.actions));
    }
    byId("conversation").replaceChildren(...[...this.#views.values()].map((view) => view.node));
    byId("welcome").hidden = nodes.length > 0;
  }

  #copyAs(node, kind, button) {
    const fields = this.#fields();
    if (!fields) return;
    const body = { model: model ?? undefined, messages: messagesFor(this.conversation, node), ...fields, stream: true };
    const base = new URL("v1", document.baseURI).href;
    copy((kind === "curl" ? asCurl : asPython)(base, body, Boolean(apiKey.value)), button);
  }

  #save() {
    store.put(this.conversation).then(() => this.changed());
  }
}

/** An answer that the page was waiting for when it was closed, before the server had said how to come back. */
function markInterrupted(node) {
  if (node.role !== "assistant" || node.stream || !["waiting", "streaming"].includes(node.state)) return;
  Object.assign(node, { state: "failed", notice: { text: "The page was closed before the answer began.", retry: true } });
}

function sessionStorageItem() {
  try {
    return sessionStorage.getItem(OPEN_NAME);
  } catch {
    return null; // storage is switched off
  }
}

function remember(id) {
  try {
    if (id) sessionStorage.setItem(OPEN_NAME, id);
    else sessionStorage.removeItem(OPEN_NAME);
  } catch {
    // storage is switched off
  }
}
