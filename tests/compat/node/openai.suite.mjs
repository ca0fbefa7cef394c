// What applications do with OpenAI's Node client, against a running Penstock.
import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";
import { zodFunction, zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: process.env.OPENAI_BASE_URL, apiKey: "none", maxRetries: 0 });
const model = "demo";
const greedy = { model, temperature: 0, seed: 1 };
const ask = (content) => [{ role: "user", content }];
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the weather in a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const asked = ask("What is the weather in Paris?");
const result = JSON.stringify({ temperature: 21, condition: "sunny" });
const answer = "It is 21 degrees and sunny in Paris.";
const Person = z.object({ name: z.string().max(20), age: z.number().int() });
const aboutAnna = ask("Extract name and age as JSON: Anna is 31 years old.");
const long = { model, messages: ask("Tell me a story."), n: 8, max_tokens: 1900 };

async function drain(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

test("an answer, with its usage", async () => {
  const completion = await client.chat.completions.create({ ...greedy, messages: ask("What is the capital of France?") });
  assert.match(completion.choices[0].message.content, /Paris/);
  assert.equal(completion.choices[0].finish_reason, "stop");
  assert.equal(completion.choices[0].message.refusal, null);
  assert.equal(completion.usage.total_tokens, completion.usage.prompt_tokens + completion.usage.completion_tokens);
});

test("the same answer streamed, with usage in the last chunk", async () => {
  const whole = await client.chat.completions.create({ ...greedy, messages: ask("What is Penstock?") });
  const stream = await client.chat.completions.create({
    ...greedy, messages: ask("What is Penstock?"), stream: true, stream_options: { include_usage: true },
  });
  const chunks = await drain(stream);
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, whole.choices[0].message.content);
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
});

test("the stream helper: events, snapshots, the final completion", async () => {
  let pieces = "";
  const stream = client.chat.completions.stream({ ...greedy, messages: ask("What is Penstock?"), n: 2 });
  stream.on("chunk", (chunk) => {
    for (const choice of chunk.choices) if (choice.index === 1) pieces += choice.delta.content ?? "";
  });
  const completion = await stream.finalChatCompletion();
  assert.equal(completion.choices.length, 2);
  assert.equal(completion.choices[1].message.content, pieces);
});

test("a stream is teed and sent on", async () => {
  const arguments_ = { ...greedy, messages: ask("What is Penstock?"), stream: true };
  const [left, right] = (await client.chat.completions.create(arguments_)).tee();
  assert.deepEqual(await drain(left), await drain(right));
  const sent = (await client.chat.completions.create(arguments_)).toReadableStream();
  const { ChatCompletionStream } = await import("openai/lib/ChatCompletionStream");
  const completion = await ChatCompletionStream.fromReadableStream(sent).finalChatCompletion();
  assert.ok(completion.choices[0].message.content);
});

test("a tool call, its result and the answer", async () => {
  const first = await client.chat.completions.create({ ...greedy, messages: asked, tools: [weather] });
  const { message, finish_reason } = first.choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: "Paris" });
  const messages = [...asked, message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: result }];
  const second = await client.chat.completions.create({ ...greedy, messages, tools: [weather] });
  assert.equal(second.choices[0].message.content, answer);
});

test("the same streamed", async () => {
  const first = client.chat.completions.stream({ ...greedy, messages: asked, tools: [weather] });
  const { message, finish_reason } = (await first.finalChatCompletion()).choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: "Paris" });
  const messages = [...asked, message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: result }];
  const second = await client.chat.completions.create({ ...greedy, messages, tools: [weather], stream: true });
  assert.equal((await drain(second)).map((chunk) => chunk.choices[0].delta.content ?? "").join(""), answer);
});

for (const stream of [false, true]) {
  test(`runTools calls the function and goes on to the answer, stream: ${stream}`, async () => {
    const cities = [];
    const tool = { ...weather, function: { ...weather.function, parse: JSON.parse, function: ({ city }) => {
      cities.push(city);
      return result;
    } } };
    const runner = client.chat.completions.runTools({ ...greedy, messages: [...asked], tools: [tool], stream });
    assert.equal(await runner.finalContent(), answer);
    assert.deepEqual(cities, ["Paris"]);
    assert.ok(stream || (await runner.totalUsage()).completion_tokens > 0);
  });
}

test("a named function is called whatever is asked, its arguments parsed by zod", async () => {
  const tool = zodFunction({ name: "set_level", parameters: z.object({ level: z.enum(["low", "high"]) }) });
  const completion = await client.chat.completions.parse({
    ...greedy, messages: ask("Hello"), tools: [tool], tool_choice: { type: "function", function: { name: "set_level" } },
  });
  const call = completion.choices[0].message.tool_calls[0].function;
  assert.equal(call.name, "set_level");
  assert.ok(["low", "high"].includes(call.parsed_arguments.level));
});

test("structured output by a zod schema", async () => {
  const completion = await client.chat.completions.parse({
    ...greedy, messages: aboutAnna, response_format: zodResponseFormat(Person, "person"),
  });
  assert.deepEqual(completion.choices[0].message.parsed, { name: "Anna", age: 31 });
});

test("structured output streamed", async () => {
  const stream = client.chat.completions.stream({
    ...greedy, messages: aboutAnna, response_format: zodResponseFormat(Person, "person"),
  });
  assert.deepEqual((await stream.finalChatCompletion()).choices[0].message.parsed, { name: "Anna", age: 31 });
});

test("log-probabilities", async () => {
  const { choices } = await client.chat.completions.create({
    ...greedy, messages: ask("Hello"), logprobs: true, top_logprobs: 2, max_completion_tokens: 4,
  });
  assert.equal(choices[0].logprobs.content.length, 4);
  for (const token of choices[0].logprobs.content) assert.equal(token.top_logprobs[0].token, token.token);
});

test("plain completions, streamed and not", async () => {
  const asked = { ...greedy, prompt: "Once upon a time", max_tokens: 12 };
  const whole = await client.completions.create(asked);
  const chunks = await drain(await client.completions.create({ ...asked, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.choices[0].text);
});

test("models are listed and shown", async () => {
  const ids = [];
  for await (const each of client.models.list()) ids.push(each.id);
  assert.ok(ids.includes(model));
  assert.equal((await client.models.retrieve(model)).object, "model");
});

test("errors have their class, code and parameter", async () => {
  const messages = ask("Hello");
  await assert.rejects(client.chat.completions.create({ model: "other", messages }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  await assert.rejects(client.chat.completions.create({ model, messages, temperature: 7 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    assert.ok(error.requestID);
    return true;
  });
  await assert.rejects(client.chat.completions.create({ model, messages, temprature: 1 }), (error) => {
    assert.equal(error.code, "unknown_parameter");
    return true;
  });
});

test("raw responses carry the request's id and our headers", async () => {
  const { data, response, request_id } = await client.models.list().withResponse();
  assert.ok(data.data.length);
  assert.equal(response.headers.get("x-request-id"), request_id);
});

test("a stream is left by break, and by its controller", async () => {
  for (const leave of ["break", "abort"]) {
    const stream = await client.chat.completions.create({ ...long, stream: true });
    let chunks = 0;
    for await (const chunk of stream) {
      assert.ok(chunk.choices.length);
      if (++chunks === 3) {
        if (leave === "break") break;
        stream.controller.abort();
      }
    }
    assert.ok(chunks >= 3);
  }
});

test("a request is given up by its signal", async () => {
  const controller = new AbortController();
  const request = client.chat.completions.create(long, { signal: controller.signal });
  setTimeout(() => controller.abort(), 100);
  await assert.rejects(request, OpenAI.APIUserAbortError);
});

test("a request that takes longer than its timeout", async () => {
  await assert.rejects(client.chat.completions.create(long, { timeout: 100 }), OpenAI.APIConnectionTimeoutError);
});
