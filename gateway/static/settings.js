// What a conversation is asked with, beside its messages: settings → fields of a request, and the same request written
// down for other programs. Settings are text as it was typed; an empty one leaves the choice to the server.

export const DEFAULTS = {
  system: "", n: "", reasoning_effort: "", temperature: "0.5", top_p: "", top_k: "", min_p: "", max_completion_tokens: "", seed: "", stop: "",
  presence_penalty: "", frequency_penalty: "", repetition_penalty: "", logprobs: false, tools: "", format: "text", schema: "",
};

const NUMBERS = [
  "temperature", "top_p", "top_k", "min_p", "max_completion_tokens", "seed", "presence_penalty", "frequency_penalty",
  "repetition_penalty",
];

const MOST_ANSWERS = 64; // the server has a limit of its own, and says so

/** A setting that cannot be sent; `field` names it. */
export class SettingError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** The fields of a request's body. Throws a SettingError. */
export function fieldsOf(settings) {
  const fields = {};
  for (const name of NUMBERS) {
    const text = (settings[name] ?? "").trim();
    if (text === "") continue;
    if (!Number.isFinite(Number(text))) throw new SettingError(name, `“${text}” is not a number.`);
    fields[name] = Number(text);
  }
  const answers = (settings.n ?? "").trim();
  if (!/^\d*$/.test(answers) || (answers && !(answers >= 1 && answers <= MOST_ANSWERS))) {
    throw new SettingError("n", `Ask for 1 to ${MOST_ANSWERS} answers.`);
  }
  if (answers > 1) fields.n = Number(answers);
  if (settings.reasoning_effort) fields.reasoning_effort = settings.reasoning_effort;
  const stop = (settings.stop ?? "").split("\n").filter(Boolean);
  if (stop.length) fields.stop = stop;
  if (settings.logprobs) Object.assign(fields, { logprobs: true, top_logprobs: 5 });
  const tools = parsed("tools", settings.tools);
  if (tools !== null) fields.tools = asTools(tools);
  if (settings.format === "json_object") fields.response_format = { type: "json_object" };
  if (settings.format === "json_schema") {
    const schema = parsed("schema", settings.schema);
    if (schema === null) throw new SettingError("schema", "Write the schema that answers are to follow.");
    fields.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  }
  return fields;
}

function parsed(field, text) {
  if (!text?.trim()) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new SettingError(field, `This is not JSON: ${error.message}`);
  }
}

/** A tool may be given as a bare function, and one tool without a list around it. */
function asTools(value) {
  const tools = Array.isArray(value) ? value : [value];
  return tools.map((tool) => {
    if (typeof tool?.name === "string") return { type: "function", function: tool };
    if (typeof tool?.function?.name === "string") return tool;
    throw new SettingError("tools", "Each tool is a function with a name, a description and parameters.");
  });
}

/** The request as a command. The key, if there is one, comes from a variable. */
export function asCurl(base, body, hasKey) {
  const quoted = `'${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`;
  const key = hasKey ? `  -H "Authorization: Bearer $PENSTOCK_API_KEY" \\\n` : "";
  return `curl -N ${base}/chat/completions \\\n${key}  -H 'Content-Type: application/json' \\\n  -d ${quoted}\n`;
}

/** The request as a program that uses OpenAI's client. */
export function asPython(base, body, hasKey) {
  const own = new Set(["top_k", "min_p", "repetition_penalty"]);
  const known = Object.entries(body).filter(([name]) => !own.has(name) && name !== "stream");
  const extra = Object.fromEntries(Object.entries(body).filter(([name]) => own.has(name)));
  const lines = known.map(([name, value]) => `    ${name}=${python(value, 4)},`);
  if (Object.keys(extra).length) lines.push(`    extra_body=${python(extra, 4)},`);
  return `${hasKey ? "import os\n\n" : ""}import openai

client = openai.OpenAI(base_url=${python(base)}, api_key=${hasKey ? 'os.environ["PENSTOCK_API_KEY"]' : '"none"'})
stream = client.chat.completions.create(
${lines.join("\n")}
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
`;
}

/** A JSON value as Python writes it. */
function python(value, indent = 0) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const isList = Array.isArray(value);
  const items = Object.entries(value).map(([key, each]) => (isList ? "" : `${JSON.stringify(key)}: `) + python(each, indent + 4));
  const [open, close] = isList ? ["[", "]"] : ["{", "}"];
  const line = `${open}${items.join(", ")}${close}`;
  if (line.length < 90 && !line.includes("\n")) return line;
  const pad = " ".repeat(indent);
  return `${open}\n${items.map((item) => `${pad}    ${item},\n`).join("")}${pad}${close}`;
}
