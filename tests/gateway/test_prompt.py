"""Rendering and tokenizing off the event loop, and prompts so long that they are not tokenized at all."""

from __future__ import annotations

import threading

import pytest
from tokenizers_for_tests import byte_fallback, byte_level

from gateway.chat_template import ChatTemplate
from gateway.errors import ContextLengthExceeded, InvalidRequest
from gateway.prompt import Fitting, Prompts
from gateway.tokenizer import Tokenizer


class WatchedTokenizer(Tokenizer):
    """Notes what is tokenized, and in which threads."""

    def __init__(self) -> None:
        super().__init__(byte_level()._backend)
        self.texts: list[str] = []
        self.threads: set[str] = set()

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        self.texts.append(text)
        self.threads.add(threading.current_thread().name)
        return super().encode(text, add_special_tokens=add_special_tokens)


@pytest.fixture
def tokenizer():
    return WatchedTokenizer()


@pytest.fixture
def prompts(tokenizer):
    prompts = Prompts(tokenizer, ChatTemplate("{{ messages[0].content }}{{ enable_thinking }}"))
    yield prompts
    prompts.close()


def chat(prompts, content, context=100, truncated=False, **arguments):
    return prompts.chat(
        lambda: [{"role": "user", "content": content}],
        add_generation_prompt=True,
        continue_final_message=False,
        variables=None,
        longest=Fitting(context, truncated=truncated),
        **arguments,
    )


async def test_the_event_loops_thread_does_none_of_it(prompts, tokenizer):
    ids, text = await chat(prompts, "Hi")
    assert text == "Hi"
    assert ids == byte_level().encode("Hi", add_special_tokens=False)
    assert await prompts.texts(
        ["a", "b"], params=["prompt[0]", "prompt[1]"], add_special_tokens=True, longest=Fitting(100)
    ) == [byte_level().encode(text, add_special_tokens=True) for text in ("a", "b")]
    assert tokenizer.threads
    assert all(name.startswith("prompt") for name in tokenizer.threads)


async def test_what_cannot_fit_is_not_tokenized(prompts, tokenizer):
    for attempt in (
        chat(prompts, "a" * 100_000),
        prompts.texts(["a" * 100_000], params=["prompt"], add_special_tokens=True, longest=Fitting(100)),
    ):
        with pytest.raises(ContextLengthExceeded, match=r"resulted in at least [0-9]+ tokens"):
            await attempt
    assert tokenizer.texts == []


async def test_of_what_will_be_truncated_the_end_is_tokenized(prompts, tokenizer):
    text = "".join(map(str, range(30_000)))
    last = byte_level().encode(text, add_special_tokens=False)[-90:]
    ids, whole = await chat(prompts, text, truncated=True)
    assert (ids[-90:], whole) == (last, text)
    (ids,) = await prompts.texts(
        [text], params=["prompt"], add_special_tokens=False, longest=Fitting(100, truncated=True)
    )
    assert ids[-90:] == last
    assert all(len(tokenized) < len(text) for tokenized in tokenizer.texts)


async def test_what_might_fit_is_tokenized(prompts, tokenizer):
    longest = max(len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))
    await chat(prompts, "a" * 100 * longest)
    assert len(tokenizer.texts) == 1


async def test_special_tokens_of_a_chat_are_the_templates():
    prompts = Prompts(byte_fallback(), ChatTemplate("<s>{{ messages[0].content }}"))
    ids, _ = await chat(prompts, "the fox")
    assert ids.count(0) == 1


async def test_without_a_template_there_is_no_chat():
    with pytest.raises(InvalidRequest) as caught:
        await chat(Prompts(byte_level(), None), "Hi")
    assert caught.value.code == "no_chat_template"
