// What the messages of a conversation look like. Each view shows one message of the tree, and tells `actions` what the
// reader wants.

import { announce, button, copy, element } from "./elements.js";
import { tokensNode } from "./logprobs.js";
import { MarkdownView } from "./markdown.js";
import { scroll } from "./scroll.js";

/** ‹ 2 / 3 › for a message that has others beside it. */
function branchBar({ at, ids }, actions) {
  const bar = element("nav", "branches");
  bar.ariaLabel = "Versions";
  bar.hidden = ids.length < 2;
  const step = (by, sign, label) => {
    const node = button(sign, () => actions.select(ids[at + by], label), "link", label);
    node.disabled = !ids[at + by];
    return node;
  };
  bar.append(step(-1, "‹", "Previous version"), element("span", "", `${at + 1} / ${ids.length}`), step(1, "›", "Next version"));
  return bar;
}

/** A question, or what tools have answered. */
export class QuestionView {
  constructor(node, place, actions) {
    this.node = element("article", "message question");
    const text = node.role === "tool" ? node.results.map(({ name, content }) => `${name} → ${content}`).join("\n") : node.content;
    this.text = element("p", "text", text);
    this.bar = element("div", "bar");
    this.bar.append(branchBar(place, actions), this.#tools(node, actions));
    this.node.append(element("h3", "unseen", node.role === "tool" ? "Tools" : "You"), this.text, this.bar);
  }

  #tools(node, actions) {
    const tools = element("div", "tools");
    if (node.role === "user") tools.append(button("Edit", () => this.#edit(node, actions)));
    tools.append(button("Copy", (self) => copy(this.text.textContent, self)));
    return tools;
  }

  #edit(node, actions) {
    if (actions.busy()) return;
    const form = element("form", "edit");
    const area = element("textarea");
    area.value = node.content;
    area.ariaLabel = "Edit the message";
    area.rows = Math.min(12, node.content.split("\n").length + 1);
    const back = () => {
      form.replaceWith(this.text);
      this.bar.hidden = false;
      this.bar.querySelector(".tools button").focus();
    };
    const send = element("button", "main", "Send");
    const row = element("div", "actions");
    row.append(button("Cancel", back, "quiet"), send);
    form.append(area, row);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (area.value.trim()) actions.edit(node, area.value.trim());
    });
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") back();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.text.replaceWith(form);
    this.bar.hidden = true;
    area.focus();
  }
}

/** An answer, as it comes and when it is there. */
export class AnswerView {
  #frame = 0;

  constructor(node, place, actions) {
    this.message = node;
    this.actions = actions;
    this.node = element("article", "message answer");
    this.reasoning = element("details", "reasoning");
    this.reasoning.append(element("summary", "", "Reasoning"), element("p"));
    this.body = element("div", "text");
    this.markdown = new MarkdownView(this.body, copy);
    this.calls = element("div", "calls");
    this.notice = element("div", "notice");
    this.notice.hidden = true;
    this.meta = element("p", "meta");
    this.tools = element("div", "tools");
    const bar = element("div", "bar");
    bar.append(this.meta, branchBar(place, actions), this.tools);
    this.node.append(element("h3", "unseen", "Model"), this.reasoning, this.body, this.calls, this.notice, bar);
    if (isUnderWay(node)) this.draw();
    else this.end();
  }

  /** As before the first word of an answer. */
  clear() {
    this.hideNotice();
    this.tools.replaceChildren();
    this.calls.replaceChildren();
    this.draw();
  }

  /** For those who do not see the page. */
  say(text) {
    announce(text);
  }

  /** Something of the message has changed; drawn at most once a frame, however many tokens arrive in it. */
  changed() {
    this.#frame ||= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.#frame); // a hidden tab gets no frames, and then end() draws
    this.#frame = 0;
    const { content, reasoning, state } = this.message;
    scroll.keepingBottom(() => {
      this.node.dataset.state = state;
      this.markdown.show(content);
      this.reasoning.hidden = !reasoning;
      this.reasoning.lastChild.textContent = reasoning ?? "";
      this.meta.textContent = this.message.meta ?? "";
    });
  }

  /** The message is what it will be: `state` is done, stopped or failed. */
  end() {
    this.draw();
    scroll.keepingBottom(() => {
      this.#drawCalls();
      this.#drawTools();
      if (this.message.notice) this.showNotice(this.message.notice.text, this.message.notice);
    });
  }

  #drawTools() {
    const { message, actions } = this;
    this.tools.replaceChildren();
    if (message.content) this.tools.append(button("Copy", (self) => copy(message.content, self)));
    this.tools.append(button("Regenerate", () => actions.regenerate(message)));
    if (message.logprobs?.length) {
      const toggle = button("Tokens", () => this.#toggleTokens(toggle));
      toggle.ariaPressed = "false";
      this.tools.append(toggle);
    }
    for (const [label, kind] of [["curl", "curl"], ["Python", "python"]]) {
      this.tools.append(button(label, (self) => actions.copyAs(message, kind, self), "link", `Copy the request for ${label}`));
    }
  }

  #toggleTokens(toggle) {
    const shown = toggle.ariaPressed === "true";
    toggle.ariaPressed = String(!shown);
    this.tokens?.remove();
    this.tokens = shown ? null : tokensNode(this.message.logprobs);
    this.body.hidden = !shown;
    if (this.tokens) this.body.after(this.tokens);
  }

  /** Each call as it would be made, and a place for what it gives, as long as nothing follows. */
  #drawCalls() {
    const { calls = [], selected } = this.message;
    this.calls.replaceChildren(
      ...calls.map((call) => {
        const box = element("div", "call");
        box.append(element("strong", "", call.name), element("pre", "", pretty(call.args)));
        return box;
      }),
    );
    if (!calls.length || selected) return;
    const form = element("form", "results");
    const inputs = calls.map((call) => {
      const label = element("label", "", `What ${call.name} gives`);
      const input = element("textarea");
      input.rows = 2;
      label.append(input);
      form.append(label);
      return input;
    });
    form.append(element("button", "quiet", "Send the results"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.actions.answerCalls(this.message, calls.map(({ id, name }, at) => ({ id, name, content: inputs[at].value })));
    });
    this.calls.append(form);
  }

  hideNotice() {
    this.notice.hidden = true;
    this.notice.replaceChildren();
  }

  /** Words under the answer. `detail` is the server's own message; `retry`: whether trying again is offered. */
  showNotice(text, { detail = "", retry = false } = {}) {
    scroll.keepingBottom(() => {
      const lines = [element("p", "", text)];
      if (detail) lines.push(element("p", "fine", detail));
      if (retry) lines.push(button("Try again", () => this.actions.retry(this.message), "quiet"));
      this.notice.replaceChildren(...lines);
      this.notice.hidden = false;
    });
  }
}

function isUnderWay({ state }) {
  return state === "waiting" || state === "streaming";
}

function pretty(json) {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json; // cut off, perhaps
  }
}
