// One answer: from the request to the figures under it. It changes the message and tells its view; what the message
// means to the conversation is not its business.

import { ServerError } from "./client.js";
import { hindrance, modelName, showReady, withKey } from "./connection.js";
import { announce } from "./elements.js";
import { compact } from "./logprobs.js";
import { endStream, pause, resumeChat, streamChat } from "./stream.js";

const LONGEST_WAIT_SECONDS = 120; // past that a countdown is no help
const SILENCE_MS = 2_500; // past that the reader is told that it goes on

export class Answering {
  #controller = new AbortController();

  /** `saved` is called when what is known of the answer should outlive a reload. */
  constructor(message, view, saved) {
    Object.assign(this, { message, view, saved });
  }

  stop() {
    this.#controller.abort();
    if (this.message.stream) endStream(this.message.stream);
  }

  /** Asks, with the fields of a request's body; resolves when the answer is over, however it ended. */
  async ask(fields) {
    this.#begin();
    const { signal } = this.#controller;
    await this.#finish(() =>
      this.#patiently(() =>
        withKey(async () => {
          const body = { model: await modelName(signal), ...fields };
          this.message.sent = Date.now();
          return await this.#read(streamChat(body, signal, (id) => this.#known(id)));
        }),
      ),
    );
  }

  /** Goes on with an answer that an earlier life of the page has begun. */
  async goOn() {
    const { stream, sent, firstMs } = this.message;
    this.#begin();
    Object.assign(this.message, { stream, sent, firstMs, resumed: true });
    await this.#finish(() => withKey(() => this.#read(resumeChat(stream, this.#controller.signal))));
  }

  #begin() {
    const { message } = this;
    for (const name of ["stream", "firstMs", "reasoning", "calls", "logprobs", "notice", "resumed", "meta"]) delete message[name];
    Object.assign(message, { content: "", state: "waiting" });
    this.view.hideNotice();
    this.view.tools.replaceChildren();
    this.view.draw();
    announce("Waiting for the answer");
  }

  #known(stream) {
    if (stream) this.message.stream = stream;
    this.saved();
  }

  async #finish(attempt) {
    const { message, view } = this;
    try {
      const { finish, tokens, last } = await attempt();
      message.state = "done";
      message.meta = figures(message, tokens, last);
      if (finish === "length") message.notice = { text: "The answer was cut off at the length limit." };
      announce(message.content);
    } catch (error) {
      view.hideNotice();
      if (this.#controller.signal.aborted) {
        Object.assign(message, { state: "stopped", meta: "stopped" });
        announce("Stopped");
      } else {
        this.#fail(error);
      }
    } finally {
      delete message.stream;
      view.end();
      this.saved();
    }
  }

  /** Reads all parts into the message. Returns the finish_reason, the number of tokens and when the last one came. */
  async #read(parts) {
    const { message, view } = this;
    let [finish, tokens, last, quiet] = [null, 0, 0, 0];
    const tell = (meta) => {
      message.meta = meta;
      view.changed();
    };
    const wait = () => {
      clearTimeout(quiet);
      quiet = setTimeout(() => message.state === "streaming" && tell("paused; it goes on by itself …"), SILENCE_MS);
    };
    try {
      for await (const part of parts) {
        showReady();
        if ("interrupted" in part) tell(part.interrupted ? "connecting again …" : "");
        if (part.reasoning) message.reasoning = (message.reasoning ?? "") + part.reasoning;
        if (part.logprobs) (message.logprobs ??= []).push(...compact(part.logprobs));
        if (part.tool) addCall((message.calls ??= []), part.tool);
        if (part.text) message.content += part.text;
        if (part.text || part.reasoning || part.tool) {
          last = Date.now();
          this.#first(last);
          tell(message.content || message.calls ? "" : "reasoning …");
          wait();
        }
        finish = part.finish ?? finish;
        tokens = part.usage?.completion_tokens ?? tokens;
      }
    } finally {
      clearTimeout(quiet);
    }
    return { finish, tokens, last };
  }

  #first(now) {
    const { message } = this;
    if (message.state === "streaming") return;
    message.state = "streaming";
    if (message.firstMs || message.resumed) return;
    message.firstMs = now - message.sent;
    this.saved();
  }

  /** Runs `attempt` again for as long as the server says when to come back, counting down under the answer. */
  async #patiently(attempt) {
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        if (!error.retryAfter || error.retryAfter > LONGEST_WAIT_SECONDS) throw error;
        const what = hindrance(error);
        announce(`${what}. Waiting to try again.`);
        for (let left = Math.ceil(error.retryAfter); left > 0; left--) {
          this.view.showNotice(`${what}. Trying again in ${left} s.`, { detail: error.message });
          await pause(Math.min(1, error.retryAfter), this.#controller.signal);
        }
        this.view.hideNotice();
      }
    }
  }

  #fail(error) {
    if (!(error instanceof ServerError)) console.error(error); // a mistake in this page: say so, and leave its trace
    const text = error instanceof ServerError ? error.message : "This page made a mistake.";
    const hints = [];
    if (error.code === "context_length_exceeded") hints.push("Begin a new chat, or ask for less.");
    if (error.code === "stream_taken_over") hints.push("The answer goes on in the other tab.");
    if (error.retryAfter) hints.push(`The server asks to wait ${Math.ceil(error.retryAfter / 60)} minutes.`);
    if (error.requestId) hints.push(`Request ${error.requestId}`);
    Object.assign(this.message, { state: "failed", meta: "", notice: { text, detail: hints.join(" "), retry: true } });
    this.error = error;
    announce(text);
  }
}

/** Parts of a call come one after the other: first its name, then its arguments piece by piece. */
function addCall(calls, { index = 0, id, function: { name = "", arguments: args = "" } = {} }) {
  calls[index] ??= { id: "", name: "", args: "" };
  calls[index].id ||= id ?? "";
  calls[index].name += name ?? "";
  calls[index].args += args ?? "";
}

/**
 * First token in milliseconds or seconds; tokens per second of the whole request. Not of the time after the first
 * token: several tokens may arrive together, and for a short answer that span is next to nothing. An answer that was
 * read again after a reload has no rate: nobody saw when its tokens came.
 */
function figures({ firstMs, sent, resumed }, tokens, last) {
  const parts = [];
  if (firstMs !== undefined) parts.push(`first token ${firstMs < 1000 ? `${firstMs} ms` : `${(firstMs / 1000).toFixed(1)} s`}`);
  if (tokens) parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}`);
  if (resumed) parts.push("resumed");
  else if (tokens && last > sent) {
    const rate = (tokens * 1000) / (last - sent);
    parts.push(`${rate < 100 ? rate.toFixed(1) : Math.round(rate)} tokens/s`);
  }
  return parts.join(" · ") || "no text";
}
