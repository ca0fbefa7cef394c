"""Prompts have the length that was asked for, and share only what was asked for."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from engine.demo_model import PATH
from gateway.load.prompts import LARGEST_ID, SMALLEST_ID, Lengths, PromptMaker


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(Path(PATH) / "tokenizer.json"))


def common_beginning(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def test_text_is_of_exactly_the_length_asked_for(tokenizer: Tokenizer) -> None:
    for length in (1, 2, 17, 400):
        for prompt in PromptMaker(tokenizer, seed=3).make(5, Lengths.parse(str(length))):
            assert prompt.text is not None
            assert len(prompt.ids) == length
            assert tuple(tokenizer.encode(prompt.text, add_special_tokens=False).ids) == prompt.ids


def test_nothing_is_shared_by_accident(tokenizer: Tokenizer) -> None:
    maker = PromptMaker(tokenizer, seed=3)
    prompts = [*maker.make(30, Lengths.parse("8-40")), *maker.make(30, Lengths.parse("8-40"))]
    assert len({prompt.ids[0] for prompt in prompts}) == 60


def test_another_seed_gives_other_prompts_and_the_same_seed_the_same(tokenizer: Tokenizer) -> None:
    first, again, other = (PromptMaker(tokenizer, seed).make(8, Lengths.parse("20")) for seed in (1, 1, 2))
    assert first == again
    assert all(common_beginning(a.ids, b.ids) < 4 for a in first for b in other)


def test_a_shared_prefix_is_shared_and_no_more(tokenizer: Tokenizer) -> None:
    prompts = PromptMaker(tokenizer, seed=3).make(6, Lengths.parse("10"), shared=32, prefixes=2)
    assert {len(prompt.ids) for prompt in prompts} == {42}
    for i, a in enumerate(prompts):
        for j, b in enumerate(prompts[:i]):
            assert common_beginning(a.ids, b.ids) == (32 if i % 2 == j % 2 else 0)


def test_without_a_tokenizer_prompts_are_ids_alone() -> None:
    (prompt,) = PromptMaker(None, seed=3).make(1, Lengths.parse("50"))
    assert prompt.text is None
    assert all(SMALLEST_ID <= token < LARGEST_ID for token in prompt.ids)


def test_a_tokenizer_without_whole_words_is_refused() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(["a few words"], trainers.BpeTrainer(vocab_size=300, show_progress=False))
    with pytest.raises(ValueError, match="at least 100"):
        PromptMaker(tokenizer, seed=0)


@pytest.mark.parametrize(
    ("text", "lowest", "highest", "distinct"),
    [("128", 128, 128, 1), ("64-66", 64, 66, 3), ("64,1024", 64, 1024, 2), ("lognormal:50:0.6", 1, 400, 60)],
)
def test_lengths_keep_to_their_distribution(text: str, lowest: int, highest: int, distinct: int) -> None:
    rng = random.Random(0)
    drawn = [Lengths.parse(text).draw(rng) for _ in range(2000)]
    assert lowest <= min(drawn)
    assert max(drawn) <= highest
    assert len(set(drawn)) >= distinct


def test_the_median_of_a_lognormal_is_the_one_given() -> None:
    rng = random.Random(0)
    drawn = sorted(Lengths.parse("lognormal:100:0.5").draw(rng) for _ in range(4001))
    assert drawn[2000] == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("text", ["", "x", "0", "0-4", "9-3", "4,0", "lognormal:128", "-5", "1.5"])
def test_what_is_no_distribution_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="length"):
        Lengths.parse(text)
