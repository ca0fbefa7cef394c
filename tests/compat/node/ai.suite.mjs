// What applications do with Vercel's AI SDK and its provider for servers of OpenAI's kind, against a running Penstock.
import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateObject, generateText, Output, stepCountIs, streamObject, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "penstock", baseURL: process.env.OPENAI_BASE_URL, apiKey: "none",
  includeUsage: true, supportsStructuredOutputs: true,
});
const greedy = { model: provider("demo"), temperature: 0, seed: 1, maxRetries: 0 };
const answer = "It is 21 degrees and sunny in Paris.";
const Person = z.object({ name: z.string().max(20), age: z.number().int() });
const aboutAnna = "Extract name and age as JSON: Anna is 31 years old.";

function weather(cities) {
  return tool({
    description: "Get the weather in a city",
    inputSchema: z.object({ city: z.string() }),
    execute: ({ city }) => {
      cities.push(city);
      return { temperature: 21, condition: "sunny" };
    },
  });
}

test("generateText, with usage and finish reason", async () => {
  const { text, usage, finishReason } = await generateText({ ...greedy, prompt: "What is the capital of France?" });
  assert.match(text, /Paris/);
  assert.equal(finishReason, "stop");
  assert.ok(usage.inputTokens > 0 && usage.outputTokens > 0);
});

test("generateText with instructions before a conversation", async () => {
  const { text } = await generateText({
    ...greedy,
    instructions: "You are helpful.",
    messages: [
      { role: "user", content: [{ type: "text", text: "My name is Anna." }] },
      { role: "assistant", content: "Nice to meet you, Anna!" },
      { role: "user", content: "What is my name?" },
    ],
  });
  assert.match(text, /Anna/);
});

test("streamText says what generateText says, with usage", async () => {
  const whole = await generateText({ ...greedy, prompt: "What is Penstock?" });
  const streamed = streamText({ ...greedy, prompt: "What is Penstock?" });
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  assert.equal(text, whole.text);
  assert.equal((await streamed.usage).outputTokens, whole.usage.outputTokens);
  assert.equal(await streamed.finishReason, "stop");
});

test("generateText calls a tool, hands on its result and answers", async () => {
  const cities = [];
  const { text, steps } = await generateText({
    ...greedy, prompt: "What is the weather in Paris?", tools: { get_weather: weather(cities) }, stopWhen: stepCountIs(3),
  });
  assert.deepEqual([text, cities, steps.length], [answer, ["Paris"], 2]);
  assert.equal(steps[0].finishReason, "tool-calls");
});

test("the same streamed", async () => {
  const cities = [];
  const streamed = streamText({
    ...greedy, prompt: "What is the weather in Paris?", tools: { get_weather: weather(cities) }, stopWhen: stepCountIs(3),
  });
  const kinds = [];
  for await (const part of streamed.fullStream) kinds.push(part.type);
  assert.ok(kinds.includes("tool-call") && kinds.includes("tool-result"), kinds.join());
  assert.deepEqual([await streamed.text, cities], [answer, ["Paris"]]);
});

for (const toolChoice of ["required", { type: "tool", toolName: "set_level" }]) {
  test(`a call is enforced: ${JSON.stringify(toolChoice)}`, async () => {
    const set_level = tool({ inputSchema: z.object({ level: z.enum(["low", "high"]) }) });
    const { toolCalls } = await generateText({ ...greedy, prompt: "Hello", tools: { set_level }, toolChoice });
    assert.ok(["low", "high"].includes(toolCalls[0].input.level));
  });
}

test("generateObject by a zod schema", async () => {
  const { object } = await generateObject({ ...greedy, schema: Person, prompt: aboutAnna });
  assert.deepEqual(object, { name: "Anna", age: 31 });
});

test("streamObject by a zod schema", async () => {
  const streamed = streamObject({ ...greedy, schema: Person, prompt: aboutAnna });
  let parts = 0;
  for await (const _ of streamed.partialObjectStream) parts += 1;
  assert.ok(parts > 0);
  assert.deepEqual(await streamed.object, { name: "Anna", age: 31 });
});

test("generateText with an output by a schema", async () => {
  const { output } = await generateText({ ...greedy, output: Output.object({ schema: Person }), prompt: aboutAnna });
  assert.deepEqual(output, { name: "Anna", age: 31 });
});

test("a choice among strings", async () => {
  const { output } = await generateText({
    ...greedy, output: Output.choice({ options: ["sunny", "rainy"] }), prompt: "How is the weather?",
  });
  assert.ok(["sunny", "rainy"].includes(output));
});

test("an image is refused with the reason", async () => {
  const image = { type: "file", mediaType: "image/png", data: new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10]) };
  const messages = [{ role: "user", content: [{ type: "text", text: "What is this?" }, image] }];
  await assert.rejects(generateText({ ...greedy, messages }), (error) => {
    assert.equal(error.statusCode, 400);
    assert.match(error.message, /image_url.*reads text only/);
    return true;
  });
});

test("a completion model", async () => {
  const { text } = await generateText({
    ...greedy, model: provider.completionModel("demo"), prompt: "Once upon a time", maxOutputTokens: 12,
  });
  assert.ok(text.length > 0);
});

test("an error names what is wrong", async () => {
  await assert.rejects(generateText({ ...greedy, model: provider("other"), prompt: "Hello" }), (error) => {
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.statusCode, 404);
    assert.match(error.message, /other/);
    return true;
  });
});

test("a stream is given up by its signal", async () => {
  const controller = new AbortController();
  const streamed = streamText({
    ...greedy, prompt: "Tell me a story.", maxOutputTokens: 1900, abortSignal: controller.signal,
    providerOptions: { penstock: { ignore_eos: true } },
  });
  const kinds = [];
  for await (const part of streamed.fullStream) {
    kinds.push(part.type);
    if (kinds.length === 6) controller.abort();
  }
  assert.equal(kinds.at(-1), "abort");
});
