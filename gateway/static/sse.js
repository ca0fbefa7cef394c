// Server-sent events, read as https://html.spec.whatwg.org/multipage/server-sent-events.html says. EventSource itself
// can only GET, and a chat is a POST.

/** Turns decoded text, cut anywhere, into events `{type, data, id}`; an id holds until another one comes. */
export class EventParser {
  #rest = "";
  #afterCarriageReturn = false;
  #type = "";
  #data = [];
  #id = "";

  /** Returns the events that `text` completes. */
  push(text) {
    if (text === "") return [];
    // CRLF is one line ending, also when its halves arrive apart.
    const start = this.#afterCarriageReturn && text.startsWith("\n") ? 1 : 0;
    this.#afterCarriageReturn = text.endsWith("\r");
    const lines = (this.#rest + text.slice(start)).split(/\r\n|\r|\n/);
    this.#rest = lines.pop();
    return lines.map((line) => this.#line(line)).filter((event) => event !== null);
  }

  #line(line) {
    if (line === "") return this.#dispatch();
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon); // empty for a comment
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#type = value;
    else if (field === "id" && !value.includes("\0")) this.#id = value;
    return null;
  }

  #dispatch() {
    const { length } = this.#data;
    const event = length ? { type: this.#type || "message", data: this.#data.join("\n"), id: this.#id } : null;
    this.#type = "";
    this.#data = [];
    return event;
  }
}

/** Reads a response body to its end and yields its events. An event that the end cuts off is dropped, as specified. */
export async function* readEvents(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // holds back a character whose bytes are split over chunks
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.push(decoder.decode(value, { stream: true }));
    }
  } finally {
    await reader.cancel().catch(() => {}); // a reader that stops early ends the response too
  }
}
