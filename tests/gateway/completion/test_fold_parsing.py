"""Where the text is parsed, the fold is as blind to batching as without: tokens in, reasoning and calls out."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers_for_tests import byte_level

from engine.sampling_params import SamplingParams
from gateway.completion.detokenizer import StopStrings
from gateway.completion.events import CallDelta, Delta
from gateway.completion.fold import Fold
from gateway.completion.parser import Parser, Parsing
from gateway.completion.stream import merged
from gateway.tokenizer import Tokenizer

EOS = 1


def tokenizer() -> Tokenizer:
    """With special tokens for some markers; others are spelt."""
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_str(byte_level()._backend.to_str())
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in ("<tool_call>", "</think>", "<|pad|>")])
    return Tokenizer(backend)


TOKENIZER = tokenizer()
PARSING = Parsing(tool_format="hermes", reasoning_format="think")


def fold(parsing: Parsing = PARSING, *, stop: tuple[str, ...] = (), max_tokens: int = 10_000) -> Fold:
    return Fold(
        0,
        TOKENIZER,
        SamplingParams(max_tokens=max_tokens, stop_token_ids=(EOS,)),
        stops=StopStrings(stop),
        include_stop=False,
        skip_special_tokens=True,
        eos_ids=frozenset({EOS}),
        parser=Parser(parsing, seed=1, choice=0, prompt=[5]),
        shown=TOKENIZER.special_ids_of(parsing.markers),
    )


def encoded(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def joined(deltas: list[Delta | None]) -> Delta:
    (whole,) = merged([Delta(index=0, text="", tokens=[]), *[delta for delta in deltas if delta is not None]])
    assert isinstance(whole, Delta)
    # Tokens that bring no news are counted by the next delta alone.
    return replace(whole, num_tokens=0)


CALL = '<tool_call>{"name": "f", "arguments": {"a": "日 🦊"}}</tool_call>'
pieces = st.sampled_from(
    ["<think>", "</think>", "\n", " ", CALL, CALL[:30], "<tool_call>", "</tool_call>", "the fox", "é🦊", "<|pad|>", "x"]
)


@settings(max_examples=300)
@given(
    text=st.lists(pieces, max_size=8).map("".join),
    sizes=st.lists(st.integers(1, 7), max_size=20),
    stop=st.sampled_from([(), ("fox",), ('"a"',), ("\n",)]),
    limit=st.integers(1, 60),
    parsing=st.sampled_from(
        [PARSING, Parsing(tool_format="hermes", single_call=True), Parsing(reasoning_format="think")]
    ),
)
def test_any_batching_gives_the_same(
    text: str, sizes: list[int], stop: tuple[str, ...], limit: int, parsing: Parsing
) -> None:
    ids = [*encoded(text), EOS]
    single, single_out = fold(parsing, stop=stop, max_tokens=limit), []
    states = []
    for token in ids:
        single_out.append(single.feed([token]))
        states.append((joined(single_out), single.num_tokens, single.reasoning_tokens))
        if single.finish_reason is not None:
            break
    batched, batched_out, at = fold(parsing, stop=stop, max_tokens=limit), [], 0
    for size in [*sizes, len(ids)]:
        if at >= len(ids) or batched.finish_reason is not None:
            break
        batched_out.append(batched.feed(ids[at : at + size]))
        at += size
        seen = min(at, len(states))
        assert (joined(batched_out), batched.num_tokens, batched.reasoning_tokens) == states[seen - 1]
    assert batched.finish_reason == single.finish_reason is not None
    assert single.reasoning_tokens <= single.num_tokens


def test_special_tokens_that_are_markers_are_read_and_others_stay_hidden() -> None:
    ids = encoded(f"<|pad|>So <|pad|>{CALL}")
    assert ids.count(encoded("<tool_call>")[0]) == 1
    delta = fold().feed([*ids, EOS])
    assert delta is not None and (delta.text, delta.finish_reason) == ("So", "tool_calls")
    assert [(call.index, call.name, call.arguments) for call in delta.calls] == [(0, "f", '{"a": "日 🦊"}')]
    assert [token.id for token in delta.tokens] == ids


def test_tokens_of_the_reasoning_are_counted_with_its_markers() -> None:
    counted, rest = fold(), encoded("Yes")
    reasoning = encoded("<think>Hm é") + encoded("</think>")
    assert len(encoded("</think>")) == 1
    counted.feed([*reasoning, *rest, EOS])
    assert counted.reasoning_tokens == len(reasoning)
    assert counted.num_tokens == len(reasoning) + len(rest) + 1


def test_a_call_that_is_cut_short_is_no_end_at_a_call() -> None:
    ids = encoded(CALL)[:-12]
    delta = fold(max_tokens=len(ids)).feed(ids)
    assert delta is not None and delta.finish_reason == "length"


def test_stop_strings_are_found_within_a_call_too() -> None:
    delta = fold(stop=("🦊",)).feed(encoded(CALL))
    assert delta is not None
    assert (delta.finish_reason, delta.stop_reason) == ("stop", "🦊"), "nobody can call what is not complete"
    assert delta.calls == (CallDelta(0, delta.calls[0].id, "f", '{"a": "日 '),)
    two = fold(stop=("🦊!",)).feed(encoded(CALL + CALL.replace("🦊", "🦊!")))
    assert two is not None and (two.finish_reason, len({call.index for call in two.calls})) == ("stop", 2)


def test_the_one_call_that_is_allowed_ends_the_choice() -> None:
    single = fold(Parsing(tool_format="hermes", single_call=True))
    call, more = encoded(CALL), encoded("\nmore" + CALL)
    delta = single.feed([*call, *more])
    assert delta is not None and (delta.finish_reason, delta.stop_reason) == ("tool_calls", None)
    assert single.num_tokens == len(encoded(CALL.removesuffix("</tool_call>"))), "as soon as nothing is missing"


def test_a_call_that_is_cut_before_its_name_is_known_is_nothing() -> None:
    ids = encoded('So. <tool_call>{"name": "get_w')
    cut = fold(max_tokens=len(ids)).feed(ids)
    assert cut is not None and (cut.text, cut.calls, cut.finish_reason) == ("So.", (), "length")
    assert [token.id for token in cut.tokens] == ids
    stopped = fold(stop=("get",)).feed(ids)
    assert stopped is not None and (stopped.text, stopped.calls, stopped.finish_reason) == ("So.", (), "stop")
    second = fold(stop=("get",)).feed(encoded(CALL) + ids[len(encoded("So. ")) :])
    assert second is not None and (second.text, second.finish_reason, len(second.calls)) == ("", "stop", 1)
    by_itself = fold().feed([*ids, EOS])
    assert by_itself is not None and by_itself.text == 'So. <tool_call>{"name": "get_w', "malformed, and not cut"
