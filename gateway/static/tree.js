// A conversation as data: a tree of messages, in which each edit and each new answer is a branch. Nothing here knows of
// the page or of the server.

export const VERSION = 1;

export function newConversation(settings) {
  const now = Date.now();
  const root = { id: "root", role: "root", parent: null, children: [], selected: null };
  return { version: VERSION, id: crypto.randomUUID?.() ?? randomId(), title: "", created: now, updated: now, settings, nodes: { root } };
}

/** Where the page is not served over https, the browser has no randomUUID. */
function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Adds a message under `parent`, as the branch that is shown. `fields`: role and content, and what else there is. */
export function add(conversation, parent, fields) {
  let number = Object.keys(conversation.nodes).length;
  while (`m${number}` in conversation.nodes) number++; // only in a file that was made by others
  const id = `m${number}`;
  const node = { id, parent, children: [], selected: null, content: "", ...fields };
  conversation.nodes[id] = node;
  conversation.nodes[parent].children.push(id);
  conversation.nodes[parent].selected = id;
  if (!conversation.title && node.role === "user") conversation.title = titleOf(node.content);
  conversation.updated = Date.now();
  return node;
}

/** Adds as many empty answers under `parent`, in the order of the choices; the first is shown. */
export function addAnswers(conversation, parent, count) {
  const nodes = Array.from({ length: count }, () => add(conversation, parent, { role: "assistant", state: "waiting" }));
  if (count > 1) nodes.forEach((node) => (node.batch = nodes[0].id));
  select(conversation, nodes[0].id);
  return nodes;
}

/** All answers that were asked for in one request with `node`, in the order of the choices. */
export function together(conversation, node) {
  if (!node.batch) return [node];
  const beside = conversation.nodes[node.parent].children.map((id) => conversation.nodes[id]);
  return beside.filter(({ batch }) => batch === node.batch);
}

function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 59).trimEnd()}…` : line;
}

/** The messages that are shown, from the first to the last. */
export function path(conversation) {
  const nodes = [];
  for (let id = conversation.nodes.root.selected; id; id = nodes.at(-1).selected) nodes.push(conversation.nodes[id]);
  return nodes;
}

/** A message's place among the branches beside it: `{at, ids}`. */
export function branches(conversation, node) {
  const ids = conversation.nodes[node.parent].children;
  return { at: ids.indexOf(node.id), ids };
}

export function select(conversation, id) {
  conversation.nodes[conversation.nodes[id].parent].selected = id;
}

/** What the model is told before it writes `answer`: a question without any answer is left out, unless it is the last. */
export function messagesFor(conversation, answer) {
  const nodes = [];
  for (let id = answer.parent; id !== "root"; id = conversation.nodes[id].parent) nodes.unshift(conversation.nodes[id]);
  const messages = [];
  if (conversation.settings.system?.trim()) messages.push({ role: "system", content: conversation.settings.system });
  nodes.forEach((node, at) => {
    const next = nodes[at + 1];
    if (node.role === "user" && (!next || saysSomething(next))) messages.push({ role: "user", content: node.content });
    if (node.role === "assistant" && saysSomething(node)) messages.push(answerMessage(node, next?.role === "tool"));
    if (node.role === "tool") messages.push(...node.results.map(({ id, content }) => ({ role: "tool", tool_call_id: id, content })));
  });
  return messages;
}

function saysSomething(node) {
  return Boolean(node.content || node.calls?.length);
}

function answerMessage(node, wasAnswered) {
  const message = { role: "assistant", content: node.content };
  if (wasAnswered) message.tool_calls = node.calls.map(({ id, name, args }) => ({ id, type: "function", function: { name, arguments: args } }));
  return message;
}

/** What a file holds, if it is a conversation of this page; throws an Error that says in words why it is none. */
export function checked(value) {
  const isText = (each) => typeof each === "string";
  if (value?.version !== VERSION || !isText(value.id) || !isText(value.title)) throw new Error("This file holds no conversations of this page.");
  if (typeof value.nodes !== "object" || value.nodes?.root?.role !== "root") throw new Error("A conversation in this file has no beginning.");
  const seen = new Set();
  const visit = (id, parent) => {
    const node = value.nodes[id];
    const isWhole = node?.id === id && node.parent === parent && Array.isArray(node.children);
    const isSound = isWhole && !seen.has(id) && (node.role !== "tool" || Array.isArray(node.results));
    if (!isSound || !(id === "root" || (["user", "assistant", "tool"].includes(node.role) && isText(node.content)))) {
      throw new Error("A conversation in this file is damaged.");
    }
    seen.add(id);
    if (node.selected !== null && !node.children.includes(node.selected)) throw new Error("A conversation in this file is damaged.");
    return node.children.map((child) => [child, id]);
  };
  const pending = [["root", null]];
  while (pending.length) pending.push(...visit(...pending.pop()));
  if (seen.size !== Object.keys(value.nodes).length) throw new Error("A conversation in this file is damaged.");
  const settings = typeof value.settings === "object" && value.settings !== null ? value.settings : {};
  return { ...value, settings, updated: Number(value.updated) || Date.now() };
}
