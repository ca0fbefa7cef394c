// Follows the newest text while the reader is at the bottom, and never moves a reader who has scrolled up.

import { byId } from "./elements.js";

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

  toTop() {
    this.#scroller.scrollTop = 0;
  }
}

export const scroll = new Scroll();
