"""What the engine is told of a thinking budget, by the format of the reasoning."""

from __future__ import annotations

import pytest

from engine.sampling_params import ReasoningLimit
from gateway.completion.formats import reasoning_formats
from gateway.completion.parser import Parsing
from gateway.errors import UnsupportedParameter
from gateway.protocol.reasoning import limit_of

TOKENS = {"<think>": 1, "</think>": 2, "[THINK]": 3, "[/THINK]": 4, "<|channel|>": 5, "<|message|>": 6, "<|end|>": 7}
MARKED = {"think": (1, 2), "mistral": (3, 4)}


@pytest.mark.parametrize("name", reasoning_formats())
@pytest.mark.parametrize("begun", [False, True])
def test_a_budget_is_for_reasoning_between_two_tokens(name: str, begun: bool) -> None:
    parsing = Parsing(reasoning_format=name, in_reasoning=begun)
    if name not in MARKED:
        with pytest.raises(UnsupportedParameter) as refused:
            limit_of(7, parsing, TOKENS.get)
        assert refused.value.param == "thinking_token_budget"
        return
    begin, end = MARKED[name]
    assert limit_of(7, parsing, TOKENS.get) == ReasoningLimit(7, end, None if begun else begin)
    assert limit_of(None, parsing, TOKENS.get) is None
    with pytest.raises(UnsupportedParameter):
        limit_of(7, parsing, {}.get)


def test_a_budget_where_there_is_no_reasoning() -> None:
    for parsing in (None, Parsing(tool_format="hermes")):
        with pytest.raises(UnsupportedParameter):
            limit_of(7, parsing, TOKENS.get)
