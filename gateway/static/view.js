// What a conversation looks like. Text goes into the page as text nodes and in no other way, so whatever a model
// writes, it is only ever read.

const byId = (id) => document.getElementById(id);

function element(tag, className, text = "") {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
}

/** One question and the answer to it. */
export class Turn {
  answer = "";
  #pending = "";
  #frame = 0;
  #text = document.createTextNode("");

  constructor(question) {
    this.question = question;
    this.node = element("article", "turn");
    const asked = element("div", "question");
    asked.append(element("h3", "unseen", "You"), element("p", "text", question));
    const answered = element("div", "answer");
    this.body = element("p", "text");
    this.body.append(this.#text);
    this.notice = element("div", "notice");
    this.notice.hidden = true;
    this.meta = element("p", "meta");
    answered.append(element("h3", "unseen", "Model"), this.body, this.notice, this.meta);
    this.node.append(asked, answered);
    this.begin();
  }

  /** Back to an empty answer that is being waited for. */
  begin() {
    this.answer = "";
    this.#pending = "";
    this.#text.data = "";
    this.node.dataset.state = "waiting";
    this.meta.textContent = "";
    this.hideNotice();
  }

  /** Adds text, drawn at most once a frame however many tokens arrive in it. */
  append(text) {
    this.node.dataset.state = "streaming";
    this.answer += text;
    this.#pending += text;
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  /** The model reasons before it answers. */
  reason() {
    this.meta.textContent = "reasoning …";
  }

  #draw() {
    cancelAnimationFrame(this.#frame); // a hidden tab gets no frames, and then end() draws
    this.#frame = 0;
    const text = this.#pending;
    this.#pending = "";
    scroll.keepingBottom(() => this.#text.appendData(text));
  }

  /** @param {"done"|"stopped"|"failed"} state */
  end(state, meta) {
    this.#draw();
    this.node.dataset.state = state;
    this.meta.textContent = meta;
  }

  hideNotice() {
    this.notice.hidden = true;
    this.notice.replaceChildren();
  }

  /** Words in place of, or under, the answer. `detail` is the server's own message, `action` a button {label, run}. */
  showNotice(message, { detail = "", action = null } = {}) {
    scroll.keepingBottom(() => {
      const lines = [element("p", "", message)];
      if (detail) lines.push(element("p", "fine", detail));
      if (action) {
        const button = element("button", "quiet", action.label);
        button.type = "button";
        button.addEventListener("click", action.run);
        lines.push(button);
      }
      this.notice.replaceChildren(...lines);
      this.notice.hidden = false;
    });
  }
}

/** Follows the newest text while the reader is at the bottom, and never moves a reader who has scrolled up. */
class Scroll {
  #scroller = byId("scroller");
  #button = byId("latest");

  constructor() {
    this.#scroller.addEventListener("scroll", () => this.#showButton(), { passive: true });
    new ResizeObserver(() => this.#showButton()).observe(this.#scroller);
    this.#button.addEventListener("click", () => this.toBottom());
  }

  get #atBottom() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < 24;
  }

  #showButton() {
    this.#button.hidden = this.#atBottom;
  }

  keepingBottom(change) {
    const follow = this.#atBottom;
    change();
    if (follow) this.toBottom();
    else this.#showButton();
  }

  toBottom() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#showButton();
  }
}

export const scroll = new Scroll();

/** Asks for an API key. Resolves to the key, to "" to forget the one that is held, or to null if the user declines. */
export function askForKey(reason, held) {
  const dialog = byId("key-dialog");
  const input = byId("key-input");
  byId("key-reason").textContent = reason;
  byId("key-forget").hidden = !held;
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
