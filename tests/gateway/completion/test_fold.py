from __future__ import annotations

import pytest
import tokenizers_for_tests as families
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.messages import EngineFinish, TokenLogprobs
from engine.sampling_params import SamplingParams
from gateway.completion.detokenizer import Detokenizer, StopStrings
from gateway.completion.events import Delta, FinishReason, OutputToken
from gateway.completion.fold import Fold
from gateway.tokenizer import Tokenizer

EOS = 1


def make_fold(
    tokenizer: Tokenizer,
    *,
    stop: tuple[str, ...] = (),
    include: bool = False,
    max_tokens: int = 1000,
    min_tokens: int = 0,
    stop_ids: tuple[int, ...] = (EOS,),
    skip_special: bool = True,
) -> Fold:
    return Fold(
        0,
        tokenizer,
        SamplingParams(max_tokens=max_tokens, min_tokens=min_tokens, stop_token_ids=stop_ids),
        stops=StopStrings(stop),
        include_stop=include,
        skip_special_tokens=skip_special,
        eos_ids=frozenset({EOS}),
    )


class Outcome:
    """Deltas joined."""

    def __init__(self) -> None:
        self.text = ""
        self.ids: list[int] = []
        self.stop_ids: list[int] = []
        self.finish: FinishReason | None = None
        self.reason: str | int | None = None

    def take(self, delta: Delta | None) -> None:
        if delta is None:
            return
        assert self.finish is None, "nothing comes after the end"
        self.text += delta.text
        self.ids += [token.id for token in delta.tokens]
        self.stop_ids = [token.id for token in delta.stop_tokens]
        self.finish, self.reason = delta.finish_reason, delta.stop_reason
        assert self.finish is not None or not self.stop_ids

    def state(self) -> tuple[object, ...]:
        return self.text, tuple(self.ids), self.finish, self.reason


def run(
    fold: Fold, ids: list[int], sizes: list[int], finish: EngineFinish | None = None
) -> dict[int, tuple[object, ...]]:
    """Number of tokens fed → everything that is out by then."""
    outcome, states, at = Outcome(), {}, 0
    for size in [*sizes, len(ids)]:
        chunk = ids[at : at + size]
        if not chunk:
            continue
        at += len(chunk)
        outcome.take(fold.feed(chunk, None, finish if at == len(ids) else None))
        states[at] = (*outcome.state(), fold.num_tokens)
        if outcome.finish is not None:
            assert outcome.ids + outcome.stop_ids == ids[: fold.num_tokens], "what is counted is there"
        if outcome.finish is not None:
            break
    return states


def definition(
    tokenizer: Tokenizer,
    ids: list[int],
    *,
    stop: tuple[str, ...],
    include: bool,
    max_tokens: int,
    min_tokens: int,
) -> tuple[str, FinishReason | None, str | int | None, int]:
    """(text, finish reason, stop reason, counted tokens), looking at the whole text after each token."""
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=True)
    text, counted, finish = "", 0, None
    for token_id in ids:
        counted += 1
        before = text
        stops_here = token_id == EOS and counted > min_tokens
        if not stops_here:
            text += detokenizer.feed(token_id)
        if stops_here or counted == max_tokens:
            finish = "stop" if stops_here else "length"
            text += detokenizer.flush()
        if counted > min_tokens:
            for end in range(len(before) + 1, len(text) + 1):
                for string in sorted(stop, key=len, reverse=True):
                    if text[:end].endswith(string):
                        return text[: end if include else end - len(string)], "stop", string, counted
        if finish:
            return text, finish, None, counted
    return text, None, None, counted


pieces = st.sampled_from(["the", " fox", "o", "x", "aé", "日本", "🦊", "</s>", "x ", "ox"])
texts = st.lists(pieces, max_size=10).map("".join)
stops = st.lists(st.sampled_from(["ox", "x o", " f", "日", "本🦊", "éo", "oxx", "x", "\ufffd"]), max_size=3).map(tuple)


@pytest.mark.parametrize("family", [families.byte_level, families.byte_fallback])
@settings(max_examples=300)
@given(
    text=texts,
    stop=stops,
    include=st.booleans(),
    max_tokens=st.integers(1, 30),
    min_tokens=st.integers(0, 8),
    sizes=st.lists(st.integers(1, 5), max_size=30),
)
def test_any_batching_gives_what_the_definition_gives(
    family, text: str, stop: tuple[str, ...], include: bool, max_tokens: int, min_tokens: int, sizes: list[int]
) -> None:
    tokenizer = family()
    ids = tokenizer.encode(text, add_special_tokens=False)
    options = {"stop": stop, "include": include, "max_tokens": max_tokens, "min_tokens": min_tokens}
    one_by_one = run(make_fold(tokenizer, **options), ids, [1] * len(ids))
    batched = run(make_fold(tokenizer, **options), ids, sizes)
    for at, state in batched.items():
        if state[2] is None:
            assert state == one_by_one[at]
    expected = definition(tokenizer, ids, **options)
    for states in (one_by_one, batched):
        if states:
            out_text, _, finish, reason, counted = states[max(states)]
            if expected[1] is None:
                assert finish is None
                assert expected[0].startswith(out_text)
            else:
                assert (out_text, finish, reason, counted) == expected
    if batched and one_by_one:
        assert batched[max(batched)] == one_by_one[max(one_by_one)]


@pytest.mark.parametrize("family", [families.byte_level, families.byte_fallback])
@given(text=texts, stop=stops)
def test_tokens_that_are_out_have_all_their_text_out(family, text: str, stop: tuple[str, ...]) -> None:
    tokenizer = family()
    ids = tokenizer.encode(text, add_special_tokens=False)
    fold, outcome = make_fold(tokenizer, stop=stop, stop_ids=()), Outcome()
    for token_id in ids:
        outcome.take(fold.feed([token_id]))
        if outcome.finish is not None:
            return
        out = "".join(map(Detokenizer(tokenizer, skip_special_tokens=True).feed, outcome.ids))
        assert outcome.text.startswith(out)
        assert outcome.ids == ids[: len(outcome.ids)]


def encoded(text: str) -> list[int]:
    return families.byte_level().encode(text, add_special_tokens=False)


def test_a_stop_token_is_counted_but_is_no_text_and_none_of_its_tokens() -> None:
    ids = encoded("the fox")
    fold, outcome = make_fold(families.byte_level(), skip_special=False), Outcome()
    outcome.take(fold.feed([*ids, EOS], None, "stop"))
    assert outcome.state() == ("the fox", tuple(ids), "stop", None)
    assert fold.num_tokens == len(ids) + 1


def test_what_ended_a_choice_travels_by_itself_with_the_last_delta() -> None:
    ids = encoded("the fox")
    scores = [TokenLogprobs(-float(n), 1, [], []) for n in range(len(ids) + 1)]
    delta = make_fold(families.byte_level()).feed([*ids, EOS], scores, "stop")
    assert delta is not None and delta.stop_tokens == [OutputToken(EOS, scores[-1])]
    assert delta.generated == [*delta.tokens, *delta.stop_tokens]
    spelt = [OutputToken(token, scores[at]) for at, token in enumerate(encoded("aQZ"))]
    cut = make_fold(families.byte_level(), stop=("QZ",)).feed([token.id for token in spelt], scores[:3])
    assert cut is not None and (cut.tokens, cut.stop_tokens) == (spelt[:1], spelt[1:])
    part = encoded("a🦊")[:-1]
    ended = make_fold(families.byte_level(), stop=("\ufffd",)).feed([*part, EOS], None, "stop")
    assert ended is not None and ended.stop_reason == "\ufffd", "the string was first"
    assert [token.id for token in ended.stop_tokens] == [*part[1:], EOS]


def test_a_stop_token_that_the_request_named_is_the_reason() -> None:
    ids = encoded("the fox")
    named = encoded("x")[0]
    outcome = Outcome()
    outcome.take(make_fold(families.byte_level(), stop_ids=(EOS, named)).feed([*ids, named], None, "stop"))
    assert (outcome.finish, outcome.reason) == ("stop", named)


def test_what_only_the_engine_knows_ends_a_choice_too() -> None:
    ids = encoded("the fo")
    outcome = Outcome()
    outcome.take(make_fold(families.byte_level(), stop=("fox",)).feed(ids, None, "length"))
    assert outcome.state() == ("the fo", tuple(ids), "length", None), "held text is text once nothing can follow"


def test_the_engines_word_for_a_stop_token_is_taken() -> None:
    ids = [*encoded("a"), EOS]
    outcome = Outcome()
    outcome.take(make_fold(families.byte_level(), min_tokens=5).feed(ids, None, "stop"))
    assert outcome.state() == ("a", tuple(ids[:1]), "stop", None)


def test_the_remainder_at_the_end_may_complete_a_stop_string() -> None:
    ids = encoded("a🦊")[:-1]
    outcome = Outcome()
    outcome.take(make_fold(families.byte_level(), stop=("\ufffd",)).feed(ids, None, "length"))
    assert (outcome.text, outcome.finish, outcome.reason) == ("a", "stop", "\ufffd")


def test_an_earlier_stop_string_beats_the_engines_finish() -> None:
    ids = encoded("the fox jumps")
    outcome = Outcome()
    outcome.take(make_fold(families.byte_level(), stop=("fox",)).feed([*ids, EOS], None, "stop"))
    assert (outcome.text, outcome.finish, outcome.reason) == ("the ", "stop", "fox")


def test_a_stop_string_that_the_last_allowed_token_completes_beats_length() -> None:
    ids = encoded("a fox")
    outcome = Outcome()
    outcome.take(make_fold(families.byte_level(), stop=("fox",), max_tokens=len(ids)).feed(ids, None, "length"))
    assert (outcome.text, outcome.finish) == ("a ", "stop")


def test_tokens_within_a_stop_string_go_and_one_that_straddles_its_start_stays() -> None:
    tokenizer = families.byte_fallback()
    space_fox = tokenizer.encode("fox", add_special_tokens=False)
    assert len(space_fox) == 1, "one token, ▁fox"
    ids = [*tokenizer.encode("the", add_special_tokens=False), *space_fox, *space_fox]
    for include, text, kept in ((False, "the ", 2), (True, "the fox", 2)):
        outcome = Outcome()
        fold = make_fold(tokenizer, stop=("fox",), include=include)
        outcome.take(fold.feed(ids))
        assert (outcome.text, outcome.ids) == (text, ids[:kept])
        assert fold.num_tokens == 2
    outcome = Outcome()
    outcome.take(make_fold(tokenizer, stop=(" fox",)).feed(ids))
    assert (outcome.text, outcome.ids) == ("the", ids[:1])


def test_logprobs_stay_with_their_tokens_while_text_is_held_back() -> None:
    ids = encoded("a🦊")
    logprobs = [TokenLogprobs(-float(n), 1, [], []) for n in range(len(ids))]
    fold = make_fold(families.byte_level())
    deltas = [fold.feed([token_id], [logprob]) for token_id, logprob in zip(ids, logprobs, strict=True)]
    assert [delta.text for delta in deltas if delta] == ["a", "🦊"]
    assert deltas[-1] is not None
    assert [token.logprobs.logprob for token in deltas[-1].tokens if token.logprobs] == [
        -float(n) for n in range(1, len(ids))
    ]


def test_a_stop_token_before_min_tokens_is_an_ordinary_token() -> None:
    ids = [*encoded("a"), EOS, *encoded("b")]
    outcome = Outcome()
    outcome.take(make_fold(families.byte_level(), min_tokens=2).feed(ids))
    assert outcome.state() == ("ab", tuple(ids), None, None)
