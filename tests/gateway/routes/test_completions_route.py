"""``/v1/completions``, whole and streamed, around a scripted lifecycle."""

from __future__ import annotations

import json

import pytest
from http_for_tests import CONTEXT, events_of, scored, serving
from tokenizers_for_tests import byte_fallback, byte_level

from gateway.completion.events import Completed, Delta, OutputToken, PromptScored, Usage
from gateway.prompt import Prompts
from gateway.protocol.logprobs import prompt_offsets, token_string


def ids_of(text):
    return byte_level().encode(text, add_special_tokens=True)


async def chunks_of(server, prompt="Hi", **fields):
    *events, done = events_of((await server.complete(prompt, stream=True, **fields)).text)
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


async def test_a_whole_answer_has_every_member():
    async with serving() as server:
        body = (await server.complete()).json()
        assert body.pop("id").startswith("cmpl-")
        assert isinstance(body.pop("created"), int)
        assert body == {
            "object": "text_completion",
            "model": "org/model",
            "system_fingerprint": "fp_test",
            "service_tier": "default",
            "choices": [
                {"index": 0, "text": "Hello there", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
            ],
            "usage": {
                "prompt_tokens": 2,
                "completion_tokens": 8,
                "total_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 3},
            },
        }


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Hi", (ids_of("Hi"),)),
        (["Hi", "there"], (ids_of("Hi"), ids_of("there"))),
        ([5, 6, 7], ([5, 6, 7],)),
        ([[5], [6, 7]], ([5], [6, 7])),
    ],
)
async def test_prompts_come_in_four_forms(prompt, prompts):
    async with serving() as server:
        response = await server.complete(prompt, n=2)
        assert response.status_code == 200, response.text
        assert server.lifecycle.last.prompts == prompts
        assert [choice["index"] for choice in response.json()["choices"]] == list(range(2 * len(prompts)))


@pytest.mark.parametrize(
    ("prompt_tokens", "fields", "max_tokens"),
    [(5, {}, 16), (5, {"max_tokens": 3}, 3), (CONTEXT - 4, {}, 4), (5, {"max_tokens": CONTEXT - 5}, CONTEXT - 5)],
)
async def test_how_much_is_generated(prompt_tokens, fields, max_tokens):
    async with serving() as server:
        await server.complete([5] * prompt_tokens, **fields)
        assert server.lifecycle.last.params[0].max_tokens == max_tokens


async def test_each_prompt_has_its_own_room():
    async with serving() as server:
        await server.complete([[5] * (CONTEXT - 4), [5]])
        assert [params.max_tokens for params in server.lifecycle.last.params] == [4, 16]


async def test_special_tokens_are_added_unless_told_not_to():
    prompts = Prompts(byte_fallback(), None)
    async with serving(prompts=prompts) as server:
        for add in (True, None, False):
            await server.complete("the fox", add_special_tokens=add)
            expected = byte_fallback().encode("the fox", add_special_tokens=add is not False)
            assert server.lifecycle.last.prompts == (expected,)


async def test_a_prompt_is_echoed():
    async with serving() as server:
        body = (await server.complete(["Say: ", "And "], echo=True, n=2)).json()
        assert [choice["text"] for choice in body["choices"]] == ["Say: Hello there"] * 2 + ["And Hello there"] * 2
        ids = ids_of("Say: ")
        assert (await server.complete(ids, echo=True)).json()["choices"][0]["text"] == "Say: Hello there"
        chunks = await chunks_of(server, "Say: ", echo=True)
        assert chunks[0]["choices"][0]["text"] == "Say: "
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Say: Hello there"


def check_logprobs(choice, prompt="", top=0):
    found = choice["logprobs"]
    text, tokens, offsets = choice["text"], found["tokens"], found["text_offset"]
    assert "".join(tokens) == text
    assert len(tokens) == len(offsets) == len(found["token_logprobs"]) == len(found["top_logprobs"])
    for token, offset, logprob, likeliest in zip(
        tokens, offsets, found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert text[offset : offset + len(token)] == token
        assert (logprob is None) == (likeliest is None) == (bool(prompt) and offset == 0)
        if likeliest is not None:
            assert likeliest[token] == logprob
            assert top <= len(likeliest) <= top + 1


async def test_logprobs_and_where_each_token_begins():
    async with serving() as server:
        for top in (0, 2):
            check_logprobs((await server.complete(logprobs=top)).json()["choices"][0], top=top)


async def test_an_echoed_prompt_is_scored():
    async with serving() as server:
        response = await server.complete(["Say naïve: ", "And "], echo=True, logprobs=2, n=2)
        assert server.lifecycle.last.params[0].prompt_logprobs == 2
        for index, choice in enumerate(response.json()["choices"]):
            prompt = ["Say naïve: ", "And "][index // 2]
            assert choice["text"].startswith(prompt)
            assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
            check_logprobs(choice, prompt, top=2)


async def test_a_stream_scores_as_the_whole_does():
    async with serving() as server:
        fields = {"echo": True, "logprobs": 1, "n": 2}
        whole = (await server.complete(["Say: ", "A"], **fields)).json()["choices"]
        chunks = await chunks_of(server, ["Say: ", "A"], **fields)
        for index in range(4):
            own = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
            assert "".join(choice["text"] for choice in own) == whole[index]["text"]
            for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                joined = [item for choice in own if choice["logprobs"] for item in choice["logprobs"][key]]
                assert joined == whole[index]["logprobs"][key]
            assert [choice["finish_reason"] for choice in own if choice["finish_reason"]] == ["stop"]


def score_alone(request):
    """One token is generated, because the engine cannot generate none."""
    assert request.params[0].max_tokens == 1
    yield [PromptScored(0, [scored(token, 10) for token in request.prompts[0][1:]])]
    yield [Delta(index=0, text="X", tokens=[OutputToken(9, scored(9, 10))], finish_reason="length")]
    yield [Completed(Usage(len(request.prompts[0]), 1, 0))]


async def test_max_tokens_0_scores_a_prompt_alone():
    async with serving(script=score_alone) as server:
        body = (await server.complete("Hi there", echo=True, logprobs=1, max_tokens=0)).json()
        (choice,) = body["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("Hi there", "length")
        check_logprobs(choice, "Hi there", top=1)
        assert body["usage"]["completion_tokens"] == 0
        assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"]
        *chunks, last = await chunks_of(
            server, "Hi there", echo=True, logprobs=1, max_tokens=0, stream_options={"include_usage": True}
        )
        assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hi there", ""]
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert last["usage"]["completion_tokens"] == 0


async def test_a_prompt_of_one_token_has_nothing_to_score():
    def script(request):
        assert request.params[0].prompt_logprobs == 1
        yield [PromptScored(0, [])]
        yield [Delta(index=0, text="X", tokens=[OutputToken(57, scored(57))], finish_reason="length")]
        yield [Completed(Usage(1, 1, 0))]

    async with serving(script=script) as server:
        choice = (await server.complete("H", echo=True, logprobs=1)).json()["choices"][0]
        assert choice["text"] == "HX"
        assert choice["logprobs"]["token_logprobs"] == [None, -1.0]
        assert choice["logprobs"]["text_offset"] == [0, 1]
        chunks = await chunks_of(server, "H", echo=True, logprobs=1)
        assert [chunk["choices"][0]["text"] for chunk in chunks] == ["H", "X"]


async def test_usage_and_reason_of_a_stream():
    async with serving() as server:
        *chunks, last = await chunks_of(server, stream_options={"include_usage": True})
        assert {chunk["object"] for chunk in chunks} == {"text_completion"}
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == 8


async def test_token_ids_are_returned_where_asked_for():
    async with serving() as server:
        choice = (await server.complete([[5, 6]], return_token_ids=True)).json()["choices"][0]
        assert choice["prompt_token_ids"] == [5, 6]
        assert choice["token_ids"] == byte_level().encode("Hello there", add_special_tokens=False)
        chunks = await chunks_of(server, [[5, 6]], return_token_ids=True)
        assert chunks[0]["choices"][0]["prompt_token_ids"] == [5, 6]
        ids = [token for chunk in chunks for token in chunk["choices"][0]["token_ids"]]
        assert ids == choice["token_ids"]


@pytest.mark.parametrize("fields", [{"best_of": 1}, {"n": 2, "best_of": 2}, {"suffix": ""}, {"store": False}])
async def test_no_op_values_are_accepted(fields):
    async with serving() as server:
        assert (await server.complete(**fields)).status_code == 200


async def test_a_model_without_a_template_completes_and_does_not_chat():
    async with serving(prompts=Prompts(byte_level(), None)) as server:
        assert (await server.complete()).status_code == 200
        response = await server.chat()
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "no_chat_template"


@pytest.mark.parametrize("text", ["Hi there", "naïve – 日本 😀 x", "  two  spaces ", "the fox", "fox"])
@pytest.mark.parametrize("tokenizer", [byte_level(), byte_fallback()], ids=["byte_level", "byte_fallback"])
@pytest.mark.parametrize("skip", [True, False])
def test_offsets_of_a_prompt(text, tokenizer, skip):
    ids = [0, *tokenizer.encode(text, add_special_tokens=False)]
    offsets = prompt_offsets(ids, text, tokenizer, skip_special_tokens=skip)
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    ends = [*offsets[1:], len(text)]
    for token, begin, end in zip(ids, offsets, ends, strict=True):
        piece = tokenizer.token_bytes(token)
        if token == 0:
            assert begin == end
        elif begin < end and (shown := piece.decode(errors="ignore")):
            # sentencepiece begins a text with a space that is not in it; a token may begin within a character
            assert text[begin:end].endswith(shown) or text[begin:end] == shown.removeprefix(" ")


def test_parts_of_characters_stay_apart():
    tokenizer = byte_level()
    parts = [token for token in range(2, 258) if len(tokenizer.token_bytes(token)) == 1]
    assert len({token_string(token, tokenizer) for token in parts}) == len(parts) == 256


async def test_the_output_continues_the_prompts_text():
    async with serving() as server:
        await server.complete()
        assert server.lifecycle.last.continues_prompt
        await server.chat()
        assert not server.lifecycle.last.continues_prompt
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Well"}]
        await server.chat(messages=messages, continue_final_message=True, add_generation_prompt=False)
        assert server.lifecycle.last.continues_prompt


def ended_by_a_stop_token(request):
    """``X`` after each prompt, and the end-of-sequence token, which has log-probabilities and no text."""
    scores = request.params[0].logprobs is not None
    if request.params[0].prompt_logprobs is not None:
        yield [PromptScored(0, [scored(token, 10) for token in request.prompts[0][1:]])]
    x, end = (OutputToken(token, scored(token, 10) if scores else None) for token in (57, 1))
    yield [Delta(index=0, text="X", tokens=[x])]
    yield 0.01  # what arrives together is sent together
    yield [Delta(index=0, text="", tokens=[], finish_reason="stop", stop_tokens=[end])]
    yield [Completed(Usage(2, 2, 0))]


async def test_a_stop_token_has_no_text_and_is_scored():
    """Harnesses that score prompts ask for one token more and take off the last score, whatever token it is of."""
    async with serving(script=ended_by_a_stop_token) as server:
        choice = (await server.complete([5, 6], echo=True, logprobs=1, return_token_ids=True)).json()["choices"][0]
        found = choice["logprobs"]
        assert choice["text"] == byte_level().decode([5, 6], skip_special_tokens=True) + "X"
        assert found["token_logprobs"] == [None, -1.0, -1.0, -1.0]
        assert len(found["tokens"]) == len(found["top_logprobs"]) == 4
        assert found["text_offset"][-1] == len(choice["text"])
        assert choice["token_ids"] == [57, 1]


async def test_a_streamed_stop_token_is_scored_with_the_finish():
    async with serving(script=ended_by_a_stop_token) as server:
        *_, last = await chunks_of(server, [5, 6], logprobs=1, return_token_ids=True)
        (choice,) = last["choices"]
        assert (choice["text"], choice["finish_reason"], choice["token_ids"]) == ("", "stop", [1])
        assert choice["logprobs"]["token_logprobs"] == [-1.0]
        assert choice["logprobs"]["text_offset"] == [1]
