"""The small routes and the rarer fields of completions, on a real server: what they say is what the engine does."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

MESSAGES = [{"role": "user", "content": "Tell me a short story."}]
CHAT = "/v1/chat/completions"


@pytest.fixture
def post(server: Any) -> Any:
    with httpx.Client(base_url=server.url, timeout=60) as client:

        def post(path: str, **body: Any) -> Any:
            response = client.post(path, json=body)
            assert response.status_code == 200, response.text
            return response.json()

        yield post


def test_prompts_are_counted_and_shown_as_they_are_generated_from(server, post):
    with server.client() as client:
        answer = client.chat.completions.create(model="demo", messages=MESSAGES, max_tokens=4, temperature=0)
        rendered = post(f"{CHAT}/render", messages=MESSAGES)
        ids = rendered["prompt_token_ids"]
        assert post(f"{CHAT}/input_tokens", messages=MESSAGES)["input_tokens"] == len(ids)
        assert len(ids) == answer.usage.prompt_tokens
        assert post("/tokenize", messages=MESSAGES)["tokens"] == ids
        assert post("/detokenize", tokens=ids)["prompt"] == rendered["prompt"]
        plain = client.completions.create(model="demo", prompt=ids, max_tokens=4, temperature=0)
        assert plain.choices[0].text == answer.choices[0].message.content


def test_text_becomes_tokens_and_comes_back(server, post):
    text = "Once upon a time, in naïve 日本,\nthere was"
    tokens = post("/tokenize", prompt=text, return_token_strs=True)
    assert post("/detokenize", tokens=tokens["tokens"])["prompt"] == text
    assert len(tokens["token_strs"]) == tokens["count"] == len(tokens["tokens"])
    with server.client() as client:
        usage = client.completions.create(model="demo", prompt=text, max_tokens=1).usage
    assert usage.prompt_tokens == tokens["count"]


def test_a_generation_is_the_prompt_and_what_follows(server, post):
    text = post("/generation", prompt="Once upon a time", max_tokens=8, temperature=0, top_k=5, top_p=0.9)["text"]
    with server.client() as client:
        plain = client.completions.create(model="demo", prompt="Once upon a time", max_tokens=8, temperature=0)
    assert text == "Once upon a time" + plain.choices[0].text


def test_the_best_of_several_have_the_greatest_mean_log_probability(server):
    arguments: dict[str, Any] = {"model": "demo", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 1.3}
    with server.client() as client:
        every = client.completions.create(**arguments, seed=5, n=6, logprobs=0).choices
        best = client.completions.create(**arguments, seed=5, n=2, best_of=6)

    def mean(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    ranked = sorted(every, key=mean, reverse=True)
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert best.usage.completion_tokens == sum(len(choice.logprobs.token_logprobs) for choice in every)


def test_a_model_without_the_tokens_refuses_a_suffix(server):
    with server.client() as client, pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="demo", prompt="def f(", suffix="):")
    assert refused.value.param == "suffix"


def test_an_admin_empties_the_prefix_cache(server):
    long = [{"role": "user", "content": "Tell me about the number " + " and ".join(map(str, range(40)))}]
    with server.client() as client:

        def cached() -> int:
            answer = client.chat.completions.create(model="demo", messages=long, max_tokens=1)
            return answer.usage.prompt_tokens_details.cached_tokens

        cached()
        assert cached() > 0
        refused = httpx.post(f"{server.url}/admin/reset_prefix_cache", timeout=60)
        assert refused.status_code == 401 and cached() > 0
        headers = {"Authorization": f"Bearer {server.admin_key}"}
        done = httpx.post(f"{server.url}/admin/reset_prefix_cache", headers=headers, timeout=60)
        assert done.json() == {"replicas": [0]}
        assert cached() == 0
        assert cached() > 0


@pytest.mark.parametrize("stream", [False, True])
def test_usage_in_every_chunk(server, stream):
    """It counts what has come so far."""
    if not stream:
        with pytest.raises(openai.BadRequestError) as refused, server.client() as client:
            client.chat.completions.create(model="demo", messages=MESSAGES, extra_body={"stream_options": {}})
        assert refused.value.param.startswith("stream_options")
        return
    options = {"include_usage": True, "continuous_usage_stats": True}
    arguments = {"model": "demo", "messages": MESSAGES, "max_tokens": 16, "temperature": 0}
    with server.client() as client:
        chunks = list(client.chat.completions.create(**arguments, stream=True, stream_options=options))
        whole = client.chat.completions.create(**arguments).usage
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts) and chunks[-1].usage.completion_tokens == whole.completion_tokens
    assert {chunk.usage.prompt_tokens for chunk in chunks} == {whole.prompt_tokens}
