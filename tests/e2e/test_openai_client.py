"""The real openai client against a real server: streaming helpers, n, logprobs, errors, timeouts, disconnects."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Tell me a short story."}]
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_chat_without_streaming(server):
    answer = server.client().chat.completions.create(model="demo", messages=MESSAGES, max_tokens=24, temperature=0)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.model == "demo" and answer.id.startswith("chatcmpl-")
    assert choice.message.role == "assistant" and choice.message.content and choice.message.refusal is None
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None
    usage = answer.usage
    assert usage.completion_tokens <= 24 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_stream_joins_to_the_answer(server):
    client = server.client()
    arguments = {"model": "demo", "messages": MESSAGES, "max_tokens": 60, "temperature": 0}
    whole = client.chat.completions.create(**arguments)
    chunks = list(client.chat.completions.create(**arguments, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({c.id for c in chunks}) == 1


def test_the_first_token_does_not_wait_for_others(server):
    """However fast they come. Where the gateway itself has to wait for a core they may come together: not each time."""
    arguments = {"model": "demo", "messages": MESSAGES, "max_tokens": 60, "temperature": 0, "stream": True}
    for _ in range(20):
        chunks = server.client().chat.completions.create(**arguments)
        texts = [c.choices[0].delta.content for c in chunks if c.choices[0].delta.content]
        if len(texts) > 1 and len(texts[0]) < 20:
            return
    raise AssertionError(f"{texts} twenty times")


def test_the_streaming_helper_with_several_choices(server):
    with server.client().chat.completions.stream(
        model="demo", messages=MESSAGES, n=3, stop=".", temperature=1.0, seed=7
    ) as stream:  # no max_tokens: the helper raises for a choice that is cut short
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert [c.index for c in final.choices] == [0, 1, 2]
    assert len({c.message.content for c in final.choices}) > 1, "choices of one request must differ in their noise"


def test_answers_go_back_into_the_conversation(server):
    """As they are: the helpers' messages carry members of the client's own."""
    client, again = server.client(), {"role": "user", "content": "And then?"}
    arguments = {"model": "demo", "messages": MESSAGES, "temperature": 0}
    with client.chat.completions.stream(**arguments) as stream:
        streamed = stream.get_final_completion()
    first = client.chat.completions.create(**arguments)
    for answer in (first, client.chat.completions.parse(**arguments), streamed):
        conversation = [*MESSAGES, answer.choices[0].message, again]
        following = client.chat.completions.create(model="demo", messages=conversation, max_tokens=2)
        assert following.usage.prompt_tokens > first.usage.total_tokens


def test_chat_logprobs(server):
    answer = server.client().chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=8, temperature=0, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    assert b"".join(bytes(t.bytes) for t in content).decode().startswith(answer.choices[0].message.content)
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob <= 0 and token.top_logprobs[0].logprob == pytest.approx(token.logprob)
        assert token.top_logprobs[0].logprob >= token.top_logprobs[1].logprob >= token.top_logprobs[2].logprob


def test_streamed_logprobs_are_those_of_the_whole_answer(server):
    arguments = {
        "model": "demo", "messages": MESSAGES, "max_tokens": 20, "temperature": 0, "logprobs": True, "top_logprobs": 2,
    }  # fmt: skip
    whole = server.client().chat.completions.create(**arguments).choices[0].logprobs.content
    parts = []
    for chunk in server.client().chat.completions.create(**arguments, stream=True):
        if chunk.choices and chunk.choices[0].logprobs:
            parts += chunk.choices[0].logprobs.content
    assert [t.token for t in parts] == [t.token for t in whole]
    assert [t.logprob for t in parts] == pytest.approx([t.logprob for t in whole], abs=1e-4)


@pytest.mark.parametrize("stop", [None, " is"])
def test_every_token_that_counts_is_scored(server, stop):
    """What ended the answer is scored as well, a stop token or the tokens of a stop string: alike in chat, streamed and
    not, and in plain completions, and usage in a stream counts it at the same moment."""
    client = server.client()
    prompt = client.chat.completions.create(
        model="demo", messages=QUESTION, max_tokens=1, extra_body={"return_token_ids": True}
    ).model_extra["prompt_token_ids"]
    same = {"model": "demo", "temperature": 0, "max_tokens": 200, "stop": stop}
    chat = same | {"messages": QUESTION, "logprobs": True}
    whole = client.chat.completions.create(**chat)
    scores = [token.logprob for token in whole.choices[0].logprobs.content]
    assert whole.choices[0].finish_reason == "stop"
    assert len(scores) == whole.usage.completion_tokens
    with client.chat.completions.stream(
        **chat, stream_options={"include_usage": True, "continuous_usage_stats": True}
    ) as stream:
        usages = [event.chunk.usage for event in stream if event.type == "chunk"]
        final = stream.get_final_completion()
    assert [token.logprob for token in final.choices[0].logprobs.content] == scores
    assert usages[-2].completion_tokens == usages[-1].completion_tokens == len(scores)
    plain = client.completions.create(**same, prompt=prompt, logprobs=0)
    assert plain.choices[0].logprobs.token_logprobs == scores
    assert plain.usage.completion_tokens == len(scores)


def test_completions_with_echo_and_logprobs(server):
    answer = server.client().completions.create(
        model="demo", prompt="The capital of France is", max_tokens=4, temperature=0, echo=True, logprobs=1
    )
    choice = answer.choices[0]
    assert choice.text.startswith("The capital of France is")
    lp = choice.logprobs
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.text_offset) == answer.usage.total_tokens
    assert lp.token_logprobs[0] is None and all(x <= 0 for x in lp.token_logprobs[1:])
    assert lp.text_offset[0] == 0 and lp.text_offset == sorted(lp.text_offset)


def test_completions_take_lists_and_tokens(server):
    client = server.client()
    several = client.completions.create(model="demo", prompt=["One two", "A b c"], n=2, max_tokens=5, seed=1)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    tokens = client.completions.create(model="demo", prompt=[5, 6, 7], max_tokens=3, temperature=0)
    assert tokens.usage.prompt_tokens == 3


def test_a_stop_string_ends_the_answer_before_it(server):
    arguments = {"model": "demo", "messages": MESSAGES, "max_tokens": 60, "temperature": 0}
    text = server.client().chat.completions.create(**arguments).choices[0].message.content
    stop = text[20:23]
    cut = server.client().chat.completions.create(**arguments, stop=stop).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == text[: text.index(stop)]


def test_the_same_seed_gives_the_same_answer_and_another_another(server):
    def ask(seed):
        return server.client().chat.completions.create(
            model="demo", messages=MESSAGES, max_tokens=30, temperature=1.2, seed=seed
        ).choices[0].message.content  # fmt: skip

    assert ask(11) == ask(11) != ask(12)


def test_models(server):
    client = server.client()
    assert [m.id for m in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
    with pytest.raises(openai.NotFoundError) as e:
        client.models.retrieve("no/such")
    assert e.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("change", "error", "param", "code"),
    [
        ({"model": "other"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": 3}, openai.BadRequestError, "temperature", None),
        ({"n": True}, openai.BadRequestError, "n", None),
        ({"max_tokens": "7"}, openai.BadRequestError, "max_tokens", None),
        ({"max_tokens": 10**6}, openai.BadRequestError, "max_tokens", None),
        ({"messages": []}, openai.BadRequestError, "messages", None),
        ({"messages": [{"role": "user", "content": "a " * 5000}]}, openai.BadRequestError, "messages",
         "context_length_exceeded"),
        ({"store": True}, openai.BadRequestError, "store", "unsupported_parameter"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "temprature", "unknown_parameter"),
        ({"extra_body": {"min_tokens": 9, "max_tokens": 3}}, openai.BadRequestError, "min_tokens", None),
    ],
)  # fmt: skip
def test_errors_name_the_field(server, change, error, param, code):
    arguments = {"model": "demo", "messages": MESSAGES, "max_tokens": 4} | change
    with pytest.raises(error) as e:
        server.client().chat.completions.create(**arguments)
    assert e.value.param == param
    assert e.value.body["message"]
    if code:
        assert e.value.code == code


def test_a_client_timeout_frees_the_blocks(server, long_answer):
    with server.cut_short(), pytest.raises(openai.APITimeoutError):
        server.client(timeout=1).chat.completions.create(model="demo", messages=MESSAGES, extra_body=long_answer)


def test_leaving_a_stream_frees_the_blocks(server, long_answer):
    with server.cut_short():
        stream = server.client().chat.completions.create(
            model="demo", messages=MESSAGES, stream=True, extra_body=long_answer
        )
        for i, _ in enumerate(stream):
            if i == 5:
                break
        stream.close()


async def test_many_streams_at_once(server):
    async with server.async_client() as client:

        async def one(i: int) -> tuple[str, float]:
            text, first = "", 0.0
            stream = await client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": f"What is {i} plus {i}?"}], stream=True,
                max_tokens=40, temperature=0,
            )  # fmt: skip
            async for chunk in stream:
                first = first or time.monotonic()
                text += chunk.choices[0].delta.content or ""
            return text, first

        answers = await asyncio.gather(*[one(i) for i in range(40)])
    assert all(text for text, _ in answers)


def test_response_headers(server):
    with server.client().chat.completions.with_streaming_response.create(
        model="demo", messages=MESSAGES, max_tokens=4, stream=True, extra_headers={"X-Request-Id": "my-id-1"}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"] == "my-id-1"
        raw = b"".join(response.iter_bytes())
    assert raw.endswith(b"data: [DONE]\n\n")
    assert b"\nid:" not in raw and b"event:" not in raw
