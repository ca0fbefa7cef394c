"""``best_of``, ``suffix``, ``prompt_logprobs`` and ``truncate_prompt_tokens``."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
from http_for_tests import CONTEXT, Step, engine_info, say, scored, serving
from tokenizers import Tokenizer as Backend
from tokenizers_for_tests import byte_fallback, byte_level

from engine.messages import TokenLogprobs
from gateway.completion.events import Completed, Delta, OutputToken, PromptScored, Usage
from gateway.completion.request import Request
from gateway.prompt import Prompts
from gateway.tokenizer import Tokenizer

FORMS = {
    "qwen": (("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"), "<|fim_prefix|>ab<|fim_suffix|>yz<|fim_middle|>"),
    "starcoder": (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "<fim_prefix>ab<fim_suffix>yz<fim_middle>"),
    "deepseek": (
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        "<｜fim▁begin｜>ab<｜fim▁hole｜>yz<｜fim▁end｜>",
    ),
    "codestral": (("[SUFFIX]", "[PREFIX]"), "[SUFFIX]yz[PREFIX]ab"),
}


@functools.cache
def knowing(*tokens: str) -> Tokenizer:
    """``byte_level`` with more special tokens."""
    backend = Backend.from_str(byte_level()._backend.to_str())
    backend.add_special_tokens(list(tokens))
    return Tokenizer(backend)


def with_means(*means: float):
    """Choice number ``i`` reads ``i`` and has the mean log-probability ``means[i]``."""

    def script(request: Request) -> Iterator[Step]:
        tokenizer = byte_level()
        assert all(params.logprobs is not None for params in request.params)
        for index in range(request.num_choices):
            (token,) = tokenizer.encode(str(index), add_special_tokens=False)
            # Two tokens, so that sums and means differ from the one that is longer.
            tokens = [token] * (1 + index % 2)
            logprobs = TokenLogprobs(means[index], 1, [], [])
            yield [
                Delta(
                    index=index,
                    text=str(index),
                    tokens=[OutputToken(each, logprobs) for each in tokens],
                    finish_reason="stop",
                )
            ]
        yield [Completed(Usage(request.num_prompt_tokens, 3 * request.num_choices, 0))]

    return script


async def test_the_best_of_several_are_given_best_first():
    async with serving(script=with_means(-3, -1, -2)) as server:
        answer = (await server.complete(n=2, best_of=3)).json()
        assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "1"), (1, "2")]
        assert all(choice["logprobs"] is None for choice in answer["choices"])
        assert answer["usage"]["completion_tokens"] == 9
        assert server.lifecycle.last.n == 3


async def test_the_best_of_each_prompt():
    async with serving(script=with_means(-1, -2, -4, -3)) as server:
        answer = (await server.complete(["a", "b"], best_of=2, logprobs=0)).json()
        assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "0"), (1, "3")]
        assert [choice["logprobs"]["token_logprobs"][0] for choice in answer["choices"]] == [-1, -3]


@pytest.mark.parametrize("family", FORMS)
async def test_text_is_filled_in_by_models_that_know_how(family):
    tokens, expected = FORMS[family]
    tokenizer = knowing(*tokens)
    async with serving(prompts=Prompts(tokenizer, None)) as server:
        server.lifecycle.info = engine_info(tokenizer)
        assert (await server.complete("ab", suffix="yz")).status_code == 200
        assert server.lifecycle.last.prompts == (tokenizer.encode(expected, add_special_tokens=True),)
        assert len(server.lifecycle.last.prompts[0]) == 4 + len(tokens)
        await server.complete(["ab", "cd"], suffix="")
        assert server.lifecycle.last.prompts == tuple(
            tokenizer.encode(t, add_special_tokens=True) for t in ("ab", "cd")
        )


async def test_code_llama_is_given_a_suffix_without_a_space_before_it():
    backend = Backend.from_str(byte_fallback()._backend.to_str())
    backend.add_special_tokens(["▁<PRE>", "▁<SUF>", "▁<MID>"])
    tokenizer = Tokenizer(backend)
    pre, suf, mid = (tokenizer.token_id(f"▁<{name}>") for name in ("PRE", "SUF", "MID"))
    space, the = tokenizer.token_id("▁"), tokenizer.encode("the", add_special_tokens=False)
    async with serving(prompts=Prompts(tokenizer, None)) as server:
        server.lifecycle.info = engine_info(tokenizer)
        for suffix in ("he dog", "\n\nhe dog"):
            assert (await server.complete("the", suffix=suffix, add_special_tokens=False)).status_code == 200
            (prompt,) = server.lifecycle.last.prompts
            apart = tokenizer.encode(f"\n{suffix}", add_special_tokens=False)
            assert apart[0] == space and prompt == [pre, *the, suf, *apart[2:], mid]
            assert tokenizer.decode(prompt, skip_special_tokens=True) == f"the{suffix}"


async def test_a_suffix_and_what_would_cut_its_form_off_are_refused():
    async with serving() as server:
        error = (await server.complete("ab", suffix="yz", truncate_prompt_tokens=1)).json()["error"]
        assert error["param"] == "suffix" and "truncate_prompt_tokens" in error["message"]


async def test_other_models_refuse_a_suffix():
    async with serving() as server:
        error = (await server.complete("ab", suffix="yz")).json()["error"]
        assert (error["param"], error["code"]) == ("suffix", "unsupported_parameter")


def entry(token: int, rank: int, logprob: float):
    return {"logprob": logprob, "rank": rank, "decoded_token": byte_level().token_text(token)}


async def test_prompt_logprobs_of_a_completion():
    async with serving() as server:
        choices = (await server.complete([[5, 6, 10], [7]], prompt_logprobs=2)).json()["choices"]
        assert [params.prompt_logprobs for params in server.lifecycle.last.params] == [2, 2]
        assert choices[0]["prompt_logprobs"] == [
            None,
            {"6": entry(6, 1, -1.0), "10": entry(10, 1, -1.0), "11": entry(11, 2, -2.0)},
            {"10": entry(10, 1, -1.0), "11": entry(11, 2, -2.0)},
        ]
        assert choices[1]["prompt_logprobs"] == [None]
        assert "prompt_logprobs" not in (await server.complete()).json()["choices"][0]


async def test_prompt_logprobs_beside_an_echo_that_shows_fewer():
    async with serving() as server:
        (choice,) = (await server.complete([[5, 6]], prompt_logprobs=2, echo=True, logprobs=1)).json()["choices"]
        assert server.lifecycle.last.params[0].prompt_logprobs == 2
        assert choice["prompt_logprobs"][1].keys() == {"6", "10", "11"}
        assert len(choice["logprobs"]["top_logprobs"][1]) == 2  # the token itself, and the likeliest


async def test_prompt_logprobs_of_a_chat():
    def script(request: Request) -> Iterator[Step]:
        (prompt,) = request.prompts
        yield [PromptScored(0, [scored(token, 10) for token in prompt[1:]])]
        yield [*say(byte_level(), "Hi"), Completed(Usage(len(prompt), 2, 0))]

    async with serving(script=script) as server:
        answer = (await server.chat(prompt_logprobs=1)).json()
        (prompt,) = server.lifecycle.last.prompts
        assert server.lifecycle.last.params[0].prompt_logprobs == 1
        first, *others = answer["prompt_logprobs"]
        assert first is None
        assert [next(iter(each)) for each in others] == [str(token) for token in prompt[1:]]
        assert "prompt_logprobs" not in (await server.chat()).json()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"priority": 1}, "priority"),
        ({"metadata": ["a"]}, "metadata"),
    ],
)
async def test_what_is_refused_by_name(path, fields, param):
    body = {"prompt": "a"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a"}]}
    async with serving() as server:
        response = await server.client.post(path, json=body | fields)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_prompt_is_cut_to_its_end():
    async with serving() as server:
        (choice,) = (await server.complete([5, 6, 70, 71], truncate_prompt_tokens=2, echo=True)).json()["choices"]
        assert server.lifecycle.last.prompts == ([70, 71],)
        assert choice["text"].startswith(byte_level().decode([70, 71], skip_special_tokens=True))
        await server.complete("abcdef", truncate_prompt_tokens=99)
        whole = byte_level().encode("abcdef", add_special_tokens=True)
        assert server.lifecycle.last.prompts == (whole,)
        (choice,) = (await server.complete("abcdef", truncate_prompt_tokens=2, echo=True)).json()["choices"]
        assert server.lifecycle.last.prompts == (whole[-2:],)
        assert choice["text"] == byte_level().decode(whole[-2:], skip_special_tokens=True) + "Hello there"
        await server.chat("x " * 300, truncate_prompt_tokens=10)
        assert len(server.lifecycle.last.prompts[0]) == 10


@pytest.mark.parametrize(
    ("fields", "left"),
    [({"max_tokens": 30}, 30), ({}, 16), ({"max_tokens": 1}, 1), ({"max_tokens": 0, "echo": True}, 1)],
)
async def test_a_prompt_is_cut_to_what_leaves_room_for_the_answer(fields, left):
    async with serving() as server:
        long = list(range(5, CONTEXT + 50))
        assert (await server.complete(long, truncate_prompt_tokens=-1, **fields)).status_code == 200
        assert server.lifecycle.last.prompts == (long[-(CONTEXT - left) :],)
        assert (await server.complete("ab", truncate_prompt_tokens=-1, **fields)).status_code == 200
        assert server.lifecycle.last.prompts == (byte_level().encode("ab", add_special_tokens=True),)


async def test_messages_are_cut_to_what_leaves_room_for_the_answer():
    async with serving() as server:
        for fields, left in (({"max_completion_tokens": 30}, 30), ({"min_tokens": 7}, 7), ({}, 1)):
            text = "x " * CONTEXT
            assert (await server.chat(text, truncate_prompt_tokens=-1, **fields)).status_code == 200
            assert len(server.lifecycle.last.prompts[0]) == CONTEXT - left
        error = (await server.chat("a", truncate_prompt_tokens=-1, max_tokens=CONTEXT)).json()["error"]
        assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
        await server.chat("x " * 300, truncate_prompt_tokens=10)
        assert len(server.lifecycle.last.prompts[0]) == 10
