"""Reasoning that has gone on for long enough ends, the same for an engine that goes on with what another began."""

from __future__ import annotations

from typing import Any

import pytest

from engine.config import EngineConfig
from engine.demo_model import PATH
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Rejected, Start
from engine.sampling_params import ReasoningLimit, SamplingParams

BEGIN, END = 1400, 1401
CONFIG = EngineConfig(model=str(PATH), block_size=16, kv_cache_memory=1 << 26, max_model_len=128, executor="uniproc")


@pytest.mark.parametrize(
    ("limit", "output", "reached"),
    [
        (ReasoningLimit(3, END), [1, 2, 3], True),
        (ReasoningLimit(3, END), [1, 2], False),
        (ReasoningLimit(3, END), [1, 2, 3, 4], False),
        (ReasoningLimit(3, END), [1, END, 3], False),
        (ReasoningLimit(0, END), [], True),
        (ReasoningLimit(3, END, BEGIN), [BEGIN, 1, 2, 3], True),
        (ReasoningLimit(3, END, BEGIN), [9, BEGIN, 1, 2, 3], True),
        (ReasoningLimit(3, END, BEGIN), [BEGIN, 1, 2], False),
        (ReasoningLimit(3, END, BEGIN), [1, 2, 3], False),
        (ReasoningLimit(3, END, BEGIN), [1, 2, BEGIN, 3, 4], False),
        (ReasoningLimit(3, END, BEGIN), [BEGIN, 1, END, 3], False),
        (ReasoningLimit(0, END, BEGIN), [BEGIN], True),
        (ReasoningLimit(0, END, BEGIN), [], False),
    ],
)
def test_when_it_is_reached(limit: ReasoningLimit, output: list[int], reached: bool) -> None:
    assert limit.reached(output) is reached


@pytest.fixture(scope="module")
def executor() -> Any:
    executor = UniprocExecutor(CONFIG, lambda *_: None)
    facts = executor.load()
    executor.initialize_cache()
    yield executor, facts
    executor.shutdown()


def generate(executor: Any, *starts: Start) -> dict[str, list[int]]:
    engine = Engine(CONFIG, *executor, 64)
    outputs = {start.id: list(start.output_prefix) for start in starts}
    for start in starts:
        assert not isinstance(engine.start(start), Rejected)
    while engine.is_busy:
        for output in engine.step().outputs:
            outputs[output.id] += output.ids
    return outputs


def start(name: str, limit: ReasoningLimit | None, prefix: list[int] | None = None, temperature: float = 1.0) -> Start:
    params = SamplingParams(max_tokens=12, temperature=temperature, reasoning_limit=limit)
    return Start(id=name, attempt=1, prompt=[5, 6, 7], output_prefix=prefix or [], params=params, seed=3)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_end_comes_where_it_has_to_and_nothing_else_changes(executor: Any, temperature: float) -> None:
    free = generate(executor, start("free", None, temperature=temperature))["free"]
    limit = ReasoningLimit(5, END)
    alone = generate(executor, start("a", limit, temperature=temperature))["a"]
    assert END not in free and BEGIN not in free
    assert alone[:6] == [*free[:5], END] and len(alone) == 12
    assert generate(executor, start("b", ReasoningLimit(5, END, BEGIN), temperature=temperature))["b"] == free
    together = generate(
        executor,
        start("a", limit, temperature=temperature),
        start("free", None, temperature=temperature),
        start("far", ReasoningLimit(50, END), temperature=temperature),
    )
    assert together == {"a": alone, "free": free, "far": free}
    for at in range(1, 12):
        assert generate(executor, start("a", limit, alone[:at], temperature))["a"] == alone


def test_reasoning_that_has_ended_is_left_alone(executor: Any) -> None:
    prefix = [BEGIN, 9, END]
    free = generate(executor, start("a", None, prefix))["a"]
    assert generate(executor, start("a", ReasoningLimit(4, END, BEGIN), prefix))["a"] == free
