// One request and its answers, of which there may be several: from the request to the figures under them. It changes
// the messages and tells the views of those that are on the page; what they mean to the conversation is not its business.

import { ServerError } from "./client.js";
import { fitting, hindrance, modelName, showReady, withKey } from "./connection.js";
import { compact } from "./logprobs.js";
import { endStream, pause, resumeChat, streamChat } from "./stream.js";

const LONGEST_WAIT_SECONDS = 120; // past that a countdown is no help
const SILENCE_MS = 2_500; // past that the reader is told that it goes on

/** In place of a view, of a message that is not on the page. */
const NOWHERE = Object.fromEntries(["changed", "clear", "draw", "end", "hideNotice", "say", "showNotice"].map((name) => [name, () => {}]));

export class Answering {
  #controller = new AbortController();
  #views = new Map();

  /** `messages` in the order of the choices. `saved` is called when what is known should outlive a reload. */
  constructor(messages, saved) {
    Object.assign(this, { messages, saved });
  }

  /** From now on those messages are on the page that `views` holds a view of, by their ids. */
  showOn(views) {
    this.#views = views;
  }

  stop() {
    this.#controller.abort();
    const [{ stream }] = this.messages;
    if (stream) endStream(stream);
  }

  /** Asks, with the fields of a request's body; resolves when the answers are over, however they ended. */
  async ask(fields) {
    this.#begin();
    const { signal } = this.#controller;
    await this.#finish(() =>
      this.#patiently(() =>
        withKey(async () => {
          const body = { model: await modelName(signal), ...fitting(fields) };
          this.#each((message) => (message.sent = Date.now()));
          return await this.#read(streamChat(body, signal, (id) => this.#known(id)));
        }),
      ),
    );
  }

  /** Goes on with answers that an earlier life of the page has begun. */
  async goOn() {
    const { stream, sent } = this.messages[0];
    const firsts = this.messages.map(({ firstMs }) => firstMs);
    this.#begin();
    this.messages.forEach((message, at) => Object.assign(message, { stream, sent, firstMs: firsts[at], resumed: true }));
    await this.#finish(() => withKey(() => this.#read(resumeChat(stream, this.messages.length, this.#controller.signal))));
  }

  #view(message) {
    return this.#views.get(message.id) ?? NOWHERE;
  }

  #each(work) {
    this.messages.forEach((message) => work(message, this.#view(message)));
  }

  #begin() {
    this.#each((message, view) => {
      for (const name of ["stream", "firstMs", "reasoning", "calls", "logprobs", "notice", "resumed", "meta"]) delete message[name];
      Object.assign(message, { content: "", state: "waiting" });
      view.clear();
      view.say("Waiting for the answer");
    });
  }

  #known(stream) {
    if (stream) this.#each((message) => (message.stream = stream));
    this.saved();
  }

  async #finish(attempt) {
    try {
      const { finishes, tokens, last } = await attempt();
      this.#each((message, view) => {
        message.state = "done";
        message.meta = figures(message, tokens, last, this.messages.length);
        if (finishes.get(this.messages.indexOf(message)) === "length") message.notice = { text: "The answer was cut off at the length limit." };
        view.say(message.content);
      });
    } catch (error) {
      this.#each((message, view) => {
        view.hideNotice();
        if (!this.#controller.signal.aborted) return;
        Object.assign(message, { state: "stopped", meta: "stopped" });
        view.say("Stopped");
      });
      if (!this.#controller.signal.aborted) this.#fail(error);
    } finally {
      this.#each((message, view) => {
        delete message.stream;
        view.end();
      });
      await this.saved(); // until then a reload would find its beginning only
    }
  }

  /** Reads all parts into the messages. Returns finish_reasons, the number of tokens and when the last one came. */
  async #read(parts) {
    const finishes = new Map();
    let [tokens, last, quiet] = [0, 0, 0];
    const tell = (message, meta) => {
      message.meta = meta;
      this.#view(message).changed();
    };
    const tellAll = (meta, fits = () => true) => this.messages.filter(fits).forEach((message) => tell(message, meta));
    const goesOn = (message) => message.state === "streaming" && !finishes.has(this.messages.indexOf(message));
    const wait = () => {
      clearTimeout(quiet);
      quiet = setTimeout(() => tellAll("paused; it goes on by itself …", goesOn), SILENCE_MS);
    };
    try {
      for await (const part of parts) {
        showReady();
        if ("interrupted" in part) tellAll(part.interrupted ? "connecting again …" : "");
        tokens = part.usage?.completion_tokens ?? tokens;
        const message = this.messages[part.index];
        if (!message) continue;
        if (part.finish) finishes.set(part.index, part.finish);
        if (take(message, part)) {
          last = Date.now();
          this.#first(message, last);
          tell(message, message.content || message.calls ? "" : "reasoning …");
          wait();
        }
      }
    } finally {
      clearTimeout(quiet);
    }
    return { finishes, tokens, last };
  }

  #first(message, now) {
    if (message.state === "streaming") return;
    message.state = "streaming";
    if (message.firstMs || message.resumed) return;
    message.firstMs = now - message.sent;
    this.saved();
  }

  /** Runs `attempt` again for as long as the server says when to come back, counting down under the answers. */
  async #patiently(attempt) {
    for (;;) {
      try {
        return await attempt();
      } catch (error) {
        if (!error.retryAfter || error.retryAfter > LONGEST_WAIT_SECONDS) throw error;
        const what = hindrance(error);
        this.#each((message, view) => view.say(`${what}. Waiting to try again.`));
        for (let left = Math.ceil(error.retryAfter); left > 0; left--) {
          this.#each((message, view) => view.showNotice(`${what}. Trying again in ${left} s.`, { detail: error.message }));
          await pause(Math.min(1, error.retryAfter), this.#controller.signal);
        }
        this.#each((message, view) => view.hideNotice());
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
    this.#each((message, view) => {
      Object.assign(message, { state: "failed", meta: "", notice: { text, detail: hints.join(" "), retry: true } });
      view.say(text);
    });
    this.error = error;
  }
}

/** Adds a part to its message. True where it is something that the model wrote. */
function take(message, { reasoning, logprobs, tool, text }) {
  if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
  if (logprobs) (message.logprobs ??= []).push(...compact(logprobs));
  if (tool) addCall((message.calls ??= []), tool);
  if (text) message.content += text;
  return Boolean(text || reasoning || tool);
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
 * read again after a reload has no rate: nobody saw when its tokens came. Tokens are those of all `answers`.
 */
function figures({ firstMs, sent, resumed }, tokens, last, answers) {
  const parts = [];
  if (firstMs !== undefined) parts.push(`first token ${firstMs < 1000 ? `${firstMs} ms` : `${(firstMs / 1000).toFixed(1)} s`}`);
  const all = answers > 1 ? ` in ${answers} answers` : "";
  if (tokens) parts.push(`${tokens} ${tokens === 1 ? "token" : "tokens"}${all}`);
  if (resumed) parts.push("resumed");
  else if (tokens && last > sent) {
    const rate = (tokens * 1000) / (last - sent);
    parts.push(`${rate < 100 ? rate.toFixed(1) : Math.round(rate)} tokens/s`);
  }
  return parts.join(" · ") || "no text";
}
