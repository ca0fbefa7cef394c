// The conversation that is open: what questions, edits and new answers do to it, and what of it is shown. Answers that
// were asked for in another one go on meanwhile.

import { Answering } from "./answering.js";
import { apiKey } from "./client.js";
import { connectAnew, fitting, model } from "./connection.js";
import { announce, byId, copy } from "./elements.js";
import { openPanel } from "./panel.js";
import { remembered, rememberOpen, rememberRunning } from "./remembered.js";
import { scroll } from "./scroll.js";
import { asCurl, asPython, DEFAULTS, fieldsOf, SettingError } from "./settings.js";
import { store } from "./store.js";
import { add, addAnswers, branches, messagesFor, newConversation, path, select, together } from "./tree.js";
import { AnswerView, QuestionView } from "./view.js";

export class Chat {
  #runs = new Map();
  #views = new Map();

  /**
   * `changed` is called when there is something new for the controls and the list of conversations, `asked` when an answer
   * was asked for here: the button that did so is gone, and the focus needs another place.
   */
  constructor(changed, asked) {
    this.changed = changed;
    this.asked = asked;
    this.conversation = newConversation({ ...DEFAULTS });
    this.actions = {
      busy: () => this.busy,
      edit: (node, text) => this.#ask(node.parent, text),
      regenerate: (node) => this.#answer(node.parent),
      retry: (node) => this.#fill(together(this.conversation, node)),
      select: (id, label) => this.#select(id, label),
      answerCalls: (node, results) => this.#answerCalls(node, results),
      copyAs: (node, kind, button) => this.#copyAs(node, kind, button),
    };
  }

  get busy() {
    return this.isRunning(this.conversation.id);
  }

  get empty() {
    return this.conversation.nodes.root.children.length === 0;
  }

  /** Whether something is being answered in a conversation. */
  isRunning(id) {
    return this.#runs.has(id);
  }

  /** Takes up what this tab had open, and what was being answered in it, before it was loaded again. */
  async restore() {
    const { open, running } = remembered();
    for (const id of new Set([open, ...running])) {
      const found = id && (await store.get(id));
      if (!found || this.isRunning(id)) continue;
      if (id === open && this.empty) this.#show(found);
      this.#goOn(found);
    }
  }

  /** Shows a conversation that is kept. */
  async open(id) {
    // Of one that is being answered the newest is here; of any other, what was kept last.
    const found = this.#runs.get(id)?.conversation ?? (await store.get(id));
    if (!found) return;
    this.#show(found);
    if (!this.busy) this.#goOn(found);
  }

  /** A new conversation, with the settings of this one. */
  begin() {
    this.conversation = newConversation({ ...this.conversation.settings });
    rememberOpen(null);
    this.#draw();
    scroll.toTop();
    announce("New chat");
    this.changed();
  }

  /** Ends what is being answered in the conversation that is open. */
  stop() {
    this.#end(this.conversation.id);
  }

  /** Forgets a conversation that is being deleted: an answer under way would keep it again. */
  discard(id) {
    const run = this.#runs.get(id);
    if (run) run.conversation.discarded = true;
    this.#end(id);
    if (id === this.conversation.id) this.begin();
    else this.changed();
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

  #show(conversation) {
    this.conversation = conversation;
    rememberOpen(conversation.id);
    if (!this.busy) Object.values(conversation.nodes).forEach(markInterrupted);
    this.#draw();
    scroll.toBottom();
    this.changed();
  }

  /** Reads on what an earlier life of the page has asked for. */
  #goOn(conversation) {
    const unfinished = Object.values(conversation.nodes).find((node) => node.role === "assistant" && node.stream);
    if (unfinished) this.#run(conversation, together(conversation, unfinished), (answering) => answering.goOn());
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
    const fields = this.#fields();
    if (this.busy || !fields) return;
    const nodes = addAnswers(this.conversation, parent, fields.n ?? 1);
    this.#draw();
    scroll.toBottom();
    this.#fill(nodes);
  }

  #fill(nodes) {
    const fields = this.#fields();
    if (this.busy || !fields) return;
    const messages = messagesFor(this.conversation, nodes[0]);
    const n = nodes.length > 1 ? nodes.length : undefined; // JSON leaves it out
    this.#run(this.conversation, nodes, (answering) => answering.ask({ messages, ...fields, n }));
    this.asked();
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

  async #run(conversation, nodes, work) {
    const isOpen = conversation === this.conversation;
    const save = () => conversation.discarded || store.put(conversation).then(() => this.changed());
    const answering = new Answering(nodes, save);
    if (isOpen) answering.showOn(this.#views);
    this.#runs.set(conversation.id, { conversation, answering });
    if (isOpen) rememberOpen(conversation.id);
    rememberRunning(this.#runs.keys());
    save();
    this.changed();
    await work(answering);
    if (this.#runs.get(conversation.id)?.answering === answering) this.#forget(conversation.id);
    if (answering.error?.lost) connectAnew(answering.error);
    this.changed();
  }

  #end(id) {
    this.#runs.get(id)?.answering.stop();
    this.#forget(id);
  }

  #forget(id) {
    this.#runs.delete(id);
    rememberRunning(this.#runs.keys());
  }

  /** `label` names the button that did it; the new view of the message has it too, or, at the last version, its opposite. */
  #select(id, label) {
    select(this.conversation, id);
    this.#draw();
    const steps = [...this.#views.get(id).node.querySelectorAll(".branches button:enabled")];
    (steps.find((step) => step.ariaLabel === label) ?? steps[0])?.focus();
    this.#save();
  }

  #draw() {
    this.#views = new Map();
    const nodes = path(this.conversation);
    for (const node of nodes) {
      const view = node.role === "assistant" ? AnswerView : QuestionView;
      this.#views.set(node.id, new view(node, branches(this.conversation, node), this.actions));
    }
    const nowhere = new Map();
    for (const { conversation, answering } of this.#runs.values()) {
      answering.showOn(conversation === this.conversation ? this.#views : nowhere);
    }
    byId("conversation").replaceChildren(...[...this.#views.values()].map((view) => view.node));
    byId("welcome").hidden = nodes.length > 0;
  }

  #copyAs(node, kind, button) {
    const fields = this.#fields();
    if (!fields) return;
    delete fields.n; // it is one answer that is copied
    const messages = messagesFor(this.conversation, node);
    const body = { model: model ?? undefined, messages, ...fitting(fields), stream: true };
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
