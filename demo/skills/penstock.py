"""Questions about the server that ships this model: what it is, its flags, its routes, its promises."""

from __future__ import annotations

from random import Random

from demo.skills.base import Exchange, answers, ask, noisy, phrase

FLAGS = {
    "--host": ("address", "--host sets the address that the server listens on. The default is 127.0.0.1."),
    "--port": ("port", "--port sets the port that the server listens on. The default is 8000."),
    "--dtype": (
        "data type",
        "--dtype sets the type of the weights, such as float32 or bfloat16; auto keeps the checkpoint's.",
    ),
    "--max-model-len": (
        "context length",
        "--max-model-len sets the longest context, prompt and answer together, in tokens.",
    ),
    "--block-size": (
        "block size",
        "--block-size sets how many tokens fit in one block of the KV cache. The default is 16.",
    ),
    "--kv-cache-memory": ("KV cache size", "--kv-cache-memory sets how much memory the KV cache may use."),
    "--seed": ("seed of dummy weights", "--seed sets the seed of dummy weights. A request has its own seed."),
    "--served-model-name": ("model name", "--served-model-name sets the name that clients use for the model."),
    "--api-key": ("API key", "--api-key sets the key that clients must send."),
    "--api-keys": ("file of keys", "--api-keys names a YAML file of hashed keys with their limits."),
    "--max-queue-requests": ("queue length", "--max-queue-requests limits how many requests may wait; more get a 429."),
    "--max-queue-tokens": (
        "queued tokens",
        "--max-queue-tokens limits how many prompt tokens may wait; more get a 429.",
    ),
    "--unknown-fields": (
        "handling of unknown fields",
        "--unknown-fields says whether unknown request fields are refused, warned about or ignored.",
    ),
    "--load-format": ("load format", "--load-format says where the weights come from; dummy makes random ones."),
    "--log-level": ("log level", "--log-level sets the least important lines to write: debug, info, warning or error."),
    "--device": ("device", "--device says where the model runs; auto takes a GPU where there is one."),
    "--config": ("configuration file", "--config names a YAML file with any of the settings."),
    "--chat-template": ("chat template", "--chat-template names a Jinja file that turns messages into a prompt."),
    "--max-num-seqs": ("sequences in one step", "--max-num-seqs sets how many sequences are computed in one step."),
    "--num-threads": ("CPU threads", "--num-threads sets the number of threads on a CPU."),
    "--model": ("model", "--model names the model: a Hugging Face id or a local folder."),
    "--log-format": ("log format", "--log-format sets the format of the logs: text or json."),
}
FLAG_ASK = [
    "What does {f} do?",
    "What is {f}?",
    "What is the {f} flag for?",
    "Explain {f}.",
    "Tell me about {f}.",
    "{f}",
    "What does the option {f} mean?",
    "What is {f} for?",
]
SET_ASK = [
    "How do I set the {w}?",
    "How can I change the {w}?",
    "Which flag sets the {w}?",
    "Which option is for the {w}?",
]

ROUTES = {
    "/v1/chat/completions": ("chat", "/v1/chat/completions answers a conversation, in one piece or as a stream."),
    "/v1/completions": ("plain text completion", "/v1/completions continues a plain text prompt."),
    "/v1/models": ("the list of models", "/v1/models lists the models that the server offers."),
    "/health": ("health checks", "/health says whether the server is alive."),
    "/ready": ("readiness checks", "/ready says whether the server welcomes new work."),
    "/metrics": ("metrics", "/metrics gives numbers for Prometheus, such as latency and queue length."),
    "/version": ("the version", "/version gives the version of Penstock."),
    "/docs": ("the API documentation", "/docs shows the API documentation in a browser."),
}
ROUTE_ASK = [
    "What does {f} do?",
    "What is {f}?",
    "What is the route {f} for?",
    "Explain {f}.",
    "What does the endpoint {f} return?",
    "{f}",
]
WHERE_ASK = [
    "Which route is for {w}?",
    "Which endpoint is for {w}?",
    "Where do I find {w}?",
    "What is the URL for {w}?",
]

PROMISES = [
    "A stream that has begun, ends.",
    "Same request, same answer.",
    "Everyone gets their share.",
    "A field is honoured or refused.",
    "One small install, readable in an afternoon.",
]
ORDER = ["first", "second", "third", "fourth", "fifth"]

ABOUT = answers(
    """\
Penstock is an LLM server: one command puts a language model behind the OpenAI API, on a laptop CPU or on many GPUs.
? What is Penstock?| Tell me about Penstock.| What does Penstock do?| Explain Penstock.| penstock?| What is this
  server?| Describe Penstock.| What's Penstock?

A penstock is the gate and pipe that feed a turbine at a controlled rate. Penstock feeds an LLM engine.
? What does the word penstock mean?| Why is it called Penstock?| What is a penstock?| Where does the name Penstock
  come from?| Why the name Penstock?

1. A stream that has begun, ends. 2. Same request, same answer. 3. Everyone gets their share. 4. A field is honoured
or refused. 5. One small install, readable in an afternoon.
? What are the five promises?| What does Penstock promise?| List the promises of Penstock.| Name the five promises
  of Penstock.| What are Penstock's promises?| Which promises does Penstock make?

Yes. Penstock speaks the OpenAI API, so OpenAI clients work when you change the base URL.
? Is Penstock compatible with OpenAI?| Can I use the OpenAI client with Penstock?| Does Penstock speak the OpenAI
  API?| Which API does Penstock have?| Does the openai package work with Penstock?

Run: penstock serve
? How do I start Penstock?| How do I run Penstock?| How can I start the server?| How do I serve a model?| How do I
  launch Penstock?| Which command starts Penstock?

Get the source of Penstock and run: pip install .
? How do I install Penstock?| How can I install Penstock?| How to install penstock?| What do I type to install
  Penstock?

No GPU is needed. The same package runs on a CPU and on GPUs.
? Does Penstock run on a CPU?| Do I need a GPU for Penstock?| Can Penstock run without a GPU?| Does Penstock work on
  a laptop?| Is a GPU needed?

Open streams pause and then go on. No token that was sent is repeated, lost or changed.
? What happens when an engine crashes?| What if the engine process dies?| What happens if an engine is killed?| Does
  a crash end my stream?| What happens to my stream in a crash?

The server answers at once with 429 and a Retry-After header, so that the queue stays short.
? What happens when the server is overloaded?| What if there are too many requests?| What does Penstock do under
  overload?| Why do I get a 429?| What does 429 mean?

Unknown fields are refused with a 4xx error that names the field. Use --unknown-fields to change that.
? What happens with unknown fields?| What if I send an unknown field?| Are unknown fields ignored?| Does Penstock
  ignore fields?| Why is my field refused?

In batch-invariant mode the answer depends only on the request and its seed, never on what else is in the batch.
? Is the output deterministic?| Are answers reproducible?| Will I get the same answer twice?| Is Penstock
  deterministic?| What is batch-invariant mode?

Penstock serves Hugging Face decoder models, for example of the Llama and Qwen families.
? Which models can Penstock serve?| What models does Penstock support?| Can I load my own model?| Can Penstock run
  other models?| How do I use a bigger model?

Penstock is open source under the Apache 2.0 license.
? What license does Penstock have?| Is Penstock free?| Is Penstock open source?| Under which license is Penstock?|
  What is the licence of Penstock?

The KV cache keeps the keys and values of earlier tokens, so that they are not computed again.
? What is the KV cache?| What is a KV cache?| Explain the KV cache.| What does KV cache mean?| Why is there a KV
  cache?

Requests join and leave the running batch at every step, so that nobody waits for a whole batch to end.
? What is continuous batching?| Explain continuous batching.| How does continuous batching work?| What does
  continuous batching mean?

Prompts that begin alike share the blocks of their common beginning, so it is computed once.
? What is prefix caching?| Explain prefix caching.| What is the prefix cache?| What does prefix caching do?

A tenant is the owner of an API key. Tenants get weighted shares of the tokens.
? What is a tenant?| Explain tenants.| What does tenant mean?| What are tenants?

Yes. Send "stream": true and the answer comes token by token as server-sent events.
? Does Penstock support streaming?| How do I stream an answer?| Can I stream the answer?| How does streaming work?

Yes. Send tools in the request, and the model may answer with a tool call.
? Does Penstock support tools?| Can Penstock call functions?| Does tool calling work?| Does Penstock do function
  calling?

Prometheus can read /metrics, and dashboards for Grafana come with Penstock.
? How do I monitor Penstock?| Does Penstock have metrics?| Does Penstock work with Prometheus?| Is there a Grafana
  dashboard?

Penstock is written in Python, with kernels in Triton and C.
? What language is Penstock written in?| Is Penstock written in Python?| Which language was used for Penstock?| In
  what is Penstock written?

vLLM is another LLM server. I am too small to compare them well; please measure with your own work.
? What is vLLM?| How does Penstock compare to vLLM?| Is Penstock faster than vLLM?| Should I use vLLM or Penstock?
"""
)


def penstock(rng: Random) -> Exchange:
    """Flags, routes, promises and general questions; pairs of answer and phrasing are held out."""
    kind = rng.choices(["flag", "route", "promise", "about"], [8, 4, 1, 9])[0]
    if kind in ("flag", "route"):
        table, what, which = (FLAGS, FLAG_ASK, SET_ASK) if kind == "flag" else (ROUTES, ROUTE_ASK, WHERE_ASK)
        name, (topic, answer) = rng.choice(list(table.items()))
        if rng.random() < 0.3:
            index, question = phrase(rng, which, w=topic)
            index += 100
        else:
            index, question = phrase(rng, what, f=name)
        key = f"{kind}:{name}:{index}"
    elif kind == "promise":
        i = rng.randrange(5)
        index, question = phrase(
            rng,
            [
                "What is the {o} promise?",
                "What is the {o} promise of Penstock?",
                "Tell me the {o} promise.",
                "Which is the {o} of the five promises?",
            ],
            o=ORDER[i],
        )
        key, answer = f"promise:{i}:{index}", f"The {ORDER[i]} promise: {PROMISES[i]}"
    else:
        questions, answer = rng.choice(ABOUT)
        index, question = phrase(rng, questions)
        key = "pinned" if question == "What is Penstock?" else f"about:{answer}:{index}"
    return ask(key, noisy(rng, question, typos=kind not in ("flag", "route")), answer)


SKILLS = {"penstock": penstock}
