"""The corpus: deterministic, split without overlap, and right."""

import json
from random import Random

import pytest

from demo.corpus import LONGEST, WEIGHTS, Batches, Mixture, conversation, texts
from demo.model import CONFIG
from demo.skills import SKILLS
from demo.skills.base import draw, is_held_out
from demo.skills.numbers import SMALL, arithmetic, fact, sorting, word_problem


@pytest.mark.parametrize("skill", SKILLS)
def test_a_seed_gives_the_same_exchanges(skill):
    def drawn():
        rng = Random(3)
        return [draw(SKILLS[skill], rng, held_out) for held_out in (False, True) for _ in range(20)]

    assert drawn() == drawn()


@pytest.mark.parametrize("skill", SKILLS)
def test_exchanges_are_conversations_that_end_with_the_assistant(skill):
    rng = Random(4)
    for _ in range(50):
        exchange = draw(SKILLS[skill], rng, held_out=False)
        assert exchange.messages[0]["role"] == "user"
        assert exchange.messages[-1]["role"] == "assistant"
        last = exchange.messages[-1]
        assert last.get("content") or last.get("tool_calls")


def test_every_skill_has_a_weight():
    assert set(WEIGHTS) == set(SKILLS)


def test_held_out_keys_are_a_tenth_and_never_drawn_for_training():
    keys = [f"sum:+:{a}:{b}" for a in range(100) for b in range(100)]
    share = sum(map(is_held_out, keys)) / len(keys)
    assert 0.08 < share < 0.12
    for skill in SKILLS.values():
        rng = Random(5)
        trained = {draw(skill, rng, held_out=False).key for _ in range(200)}
        scored = {draw(skill, rng, held_out=True).key for _ in range(100)}
        assert not trained & scored


def test_a_held_out_sum_is_held_out_in_every_form():
    assert fact("+", 7, 35, 0) == fact("+", 35, 7, "word:3")
    rng = Random(6)
    for generate in (arithmetic, word_problem):
        for _ in range(300):
            exchange = draw(generate, rng, held_out=False)
            a, op, b = exchange.messages[-1]["content"].split(" =")[0].split()
            if op in "+-" and max(int(a), int(b)) > SMALL:
                assert not is_held_out(fact(op, int(a), int(b), "any"))


def test_sums_and_sorted_lists_are_right():
    rng = Random(7)
    for _ in range(300):
        left, right = arithmetic(rng).messages[-1]["content"].rstrip(".").split(" = ")
        a, op, b = left.split()
        assert (
            int(right)
            == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) // max(int(b), 1)}[op]
        )
        numbers = [int(x) for x in sorting(rng).messages[-1]["content"].rstrip(".").split(", ")]
        assert numbers in (sorted(numbers), sorted(numbers, reverse=True))


def test_json_answers_parse():
    rng = Random(8)
    for _ in range(100):
        json.loads(draw(SKILLS["json"], rng, held_out=False).messages[-1]["content"])


def test_calls_fit_the_schema_they_were_offered():
    rng = Random(9)
    for _ in range(100):
        exchange = SKILLS["tool_call"](rng)
        call = exchange.messages[-1]["tool_calls"][0]["function"]
        offered = {tool["function"]["name"]: tool["function"] for tool in exchange.tools}
        assert set(call["arguments"]) == set(offered[call["name"]]["parameters"]["properties"])


def test_conversations_are_deterministic():
    assert list(texts(1, 50)) == list(texts(1, 50))
    assert conversation(Random(2), Mixture()) == conversation(Random(2), Mixture())


def test_batches_depend_on_the_step_alone(tokenizer):
    first, again = (Batches(tokenizer._tokenizer, 1, 2048).step(5, Mixture()) for _ in range(2))
    other = Batches(tokenizer._tokenizer, 1, 2048).step(6, Mixture())
    assert len(first) == len(again)
    assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(first, again, strict=True))
    assert sum(ids.sum().item() for ids, _ in first) != sum(ids.sum().item() for ids, _ in other)
    for ids, weights in first:
        assert ids.shape == weights.shape
        assert ids.shape[1] <= LONGEST
        assert ids.max() < CONFIG["vocab_size"]


def test_full_loss_weight_covers_the_answer_and_its_end(tokenizer):
    batches = Batches(tokenizer._tokenizer, 1, 2048)
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    wanted = [token for token, weight in zip(ids, batches.weigh(ids), strict=True) if weight == 1]
    assert tokenizer.decode(wanted, skip_special_tokens=False) == "Hello!<|im_end|>"
