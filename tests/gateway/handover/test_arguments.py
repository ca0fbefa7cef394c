"""The command line of the next server: the old one's, with what was given after ``--`` instead."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.commands import _parse
from gateway.handover.command import rendered

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
flags = st.fixed_dictionaries(
    {},
    optional={
        "served_model_name": st.lists(words, min_size=1, max_size=3),
        "enable_prefix_caching": st.booleans(),
        "kv_cache_memory": words,
        "tensor_parallel_size": st.integers(1, 8).map(str),
        "api_key": st.lists(words, min_size=1, max_size=2),
        "port": st.integers(0, 65535).map(str),
        "model": words.filter(lambda word: not word.startswith("-")),
    },
)


@settings(max_examples=15)
@given(flags, flags)
def test_a_command_line_says_what_it_was_made_of_and_overrides_replace(
    given: dict[str, Any], overrides: dict[str, Any]
) -> None:
    assert _parse(rendered(given)) == given
    assert _parse(rendered(given | overrides)) == given | overrides


def test_forms_of_flags() -> None:
    arguments = ["x/y", "-tp", "2", "--port=81", "--no-enable-prefix-caching", "--api-key", "a", "--api-key=b"]
    assert sorted(rendered(_parse(arguments))) == [
        "--api-key=a",
        "--api-key=b",
        "--no-enable-prefix-caching",
        "--port=81",
        "--tensor-parallel-size=2",
        "x/y",
    ]


@pytest.mark.parametrize("arguments", [["--max-length", "3"], ["a", "b"], ["--port"]])
def test_what_is_no_command_line_is_a_mistake_of_the_user(arguments: list[str]) -> None:
    with pytest.raises(typer.TyperException):
        _parse(arguments)
