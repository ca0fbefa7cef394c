from __future__ import annotations

import re

import pytest
import tokenizers_for_tests as families
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.completion.detokenizer import Detokenizer, StopMatch, StopSearch, StopStrings
from gateway.tokenizer import Tokenizer


def parts_of(tokenizer: Tokenizer, ids: list[int], *, skip: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    return [*map(detokenizer.feed, ids), detokenizer.flush()]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


random_ids = st.lists(st.integers(0, 430), max_size=40)
"""Beyond every vocabulary here, so that ids without a token are among them."""


@pytest.mark.parametrize("family", [families.byte_level, families.metaspace, families.words])
@given(ids=random_ids, skip=st.booleans())
def test_joined_text_is_what_the_tokenizer_decodes_for_any_ids(family, ids: list[int], skip: bool) -> None:
    tokenizer = family()
    assert "".join(parts_of(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@given(ids=st.lists(st.one_of(st.integers(0, 2), st.integers(259, 340), st.integers(3, 130)), max_size=30))
def test_byte_fallback_equals_the_tokenizer_where_every_run_of_bytes_is_ascii(ids: list[int]) -> None:
    tokenizer = families.byte_fallback()
    assert "".join(parts_of(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", families.ALL)
@given(text=st.text(), skip=st.booleans())
@example(text="👩‍👩‍👧‍👦 🇫🇷 naïve 日本語", skip=True)
@example(text="  two spaces first", skip=True)
def test_joined_text_is_what_the_tokenizer_decodes_for_any_text(family, text: str, skip: bool) -> None:
    tokenizer = family()
    ids = ids_of(tokenizer, text)
    assert "".join(parts_of(tokenizer, ids, skip=skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


byte_id = st.integers(3, 258)


@given(run=st.binary(max_size=12), around=st.booleans())
def test_a_wrong_run_of_bytes_keeps_its_whole_characters(run: bytes, around: bool) -> None:
    """Where the run is right as a whole, or wrong as a whole, this is what the tokenizer gives too."""
    tokenizer = families.byte_fallback()
    (fox,) = ids_of(tokenizer, "fox")
    ids = [fox, *(3 + byte for byte in run), *([fox] if around else [])]
    text = "".join(parts_of(tokenizer, ids))
    kept = re.sub(r"\ufffd", "", text.removeprefix("fox"))
    assert kept.removesuffix(" fox") == run.decode(errors="ignore").replace("\ufffd", "")
    decoded = tokenizer.decode(ids, skip_special_tokens=True)
    try:
        run.decode()
    except UnicodeDecodeError:
        assert text.count("\ufffd") <= decoded.count("\ufffd")
        if not run.decode(errors="ignore"):
            assert text == decoded
    else:
        assert text == decoded


@pytest.mark.parametrize("family", [families.byte_level, families.byte_fallback])
@given(text=st.text(alphabet=st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), min_size=1))
def test_half_a_character_is_never_given_out(family, text: str) -> None:
    tokenizer = family()
    *parts, rest = parts_of(tokenizer, ids_of(tokenizer, text))
    assert rest == ""
    given_out = "".join(parts)
    assert given_out.count("\ufffd") == text.count("\ufffd")


def test_every_character_comes_with_the_token_that_completes_it() -> None:
    tokenizer = families.byte_fallback()
    assert parts_of(tokenizer, ids_of(tokenizer, "🦊é")) == ["", "", "", "", "🦊", "é", ""]


def test_an_unfinished_character_is_flushed_as_the_tokenizer_decodes_it() -> None:
    for family in (families.byte_level, families.byte_fallback):
        tokenizer = family()
        ids = ids_of(tokenizer, "a🦊")[:-1]
        assert parts_of(tokenizer, ids)[-1] == tokenizer.decode(ids, skip_special_tokens=True)[1:]


# --- stop strings ---------------------------------------------------------------------------------------------

letters = st.text(alphabet="ab", max_size=12)
stop_lists = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), min_size=1, max_size=4)


def naive(text: str, stops: list[str], armed_from: int = 0) -> StopMatch | None:
    """The definition: the first end at which a stop string ends, and of those that do the longest."""
    for end in range(armed_from + 1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return StopMatch(end - len(stop), end, stop)
    return None


@settings(max_examples=300)
@given(parts=st.lists(letters, max_size=8), stops=stop_lists, first_armed=st.integers(0, 8))
def test_stop_search_is_the_definition_however_the_text_is_cut(
    parts: list[str], stops: list[str], first_armed: int
) -> None:
    search = StopSearch(StopStrings(stops))
    found = None
    fed = ""
    for number, part in enumerate(parts):
        found = search.feed(part, armed=number >= first_armed)
        fed += part
        if found is not None:
            break
        longest = max((n for stop in stops for n in range(len(stop)) if fed.endswith(stop[:n])), default=0)
        assert search.held == longest
    assert found == naive("".join(parts), stops, armed_from=len("".join(parts[:first_armed])))


def test_a_long_almost_match_takes_linear_time() -> None:
    search = StopSearch(StopStrings(["a" * 5000 + "b"]))
    compared = 0

    class Counting(str):
        def __getitem__(self, key):
            nonlocal compared
            compared += 1
            return super().__getitem__(key)

    search._stops.strings = (Counting(search._stops.strings[0]),)
    for _ in range(200):
        search.feed("a" * 100, armed=True)
    assert search.held == 5000
    assert compared < 5 * 20_000


@pytest.mark.parametrize("family", families.ALL)
@given(text=st.sampled_from(families.SENTENCES), cut=st.integers(1, 30))
def test_an_output_that_continues_its_prompt_is_the_rest_of_the_text(family, text: str, cut: int) -> None:
    """A space that a tokenizer writes into a word's token is not lost between prompt and output."""
    tokenizer = family()
    ids = ids_of(tokenizer, text)
    before = tokenizer.decode(ids[:cut], skip_special_tokens=True)
    if "\ufffd" in before:
        return
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=True, continues=True)
    output = [*map(detokenizer.feed, ids[cut:]), detokenizer.flush()]
    assert before + "".join(output) == tokenizer.decode(ids, skip_special_tokens=True)
