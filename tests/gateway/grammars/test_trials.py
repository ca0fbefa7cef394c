"""Grammars tried in a process of their own: verdicts, and what becomes of one that takes too long or kills it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.demo_model import PATH
from engine.grammar import Grammar
from engine.grammar_trial_messages import Trial
from engine.messages import EngineInfo
from gateway.errors import InvalidRequest, RateLimited
from gateway.grammars import trials
from gateway.grammars.trials import Trials

INFO = EngineInfo(
    device="cpu",
    dtype="float32",
    parameters=1,
    weight_bytes=4,
    max_model_len=100,
    block_size=16,
    num_blocks=64,
    cache_bytes=1024,
    vocab_size=1536,
    eos_token_ids=[2],
    fingerprint="",
    kernels={},
    load_seconds={},
)
ECHO = """
import json, os, sys, time
sys.stdin.readline()
print("{}", flush=True)
for line in sys.stdin:
    source = json.loads(line)["source"]
    if source == "sleep":
        time.sleep(600)
    if source == "die":
        os._exit(9)
    print(json.dumps({"grammar": ["lark", source]}), flush=True)
"""
"""Stands in for the process: quick to start, and it does what the grammar says."""


@asynccontextmanager
async def serving(**changes: Any) -> AsyncIterator[tuple[Trials, list[Any]]]:
    records: list[Any] = []
    made = Trials(PATH, record=records.append, **({"timeout": 60.0} | changes))
    try:
        yield made, records
    finally:
        await made.close()


def echo() -> tuple[str, ...]:
    return (sys.executable, "-c", ECHO)


async def refusal(made: Trials, trial: Trial) -> str:
    with pytest.raises(InvalidRequest) as raised:
        await made.accept(trial, "field", INFO, "a key")
    assert raised.value.param == "field" and raised.value.code == "invalid_grammar"
    return raised.value.message


GBNF_MISTAKES = {
    "root ::= (": "line 1, column 11: expected ')'",
    'root ::= "a"\nb ::= "\\q"\n': "line 2, column 9: invalid escape sequence \\q",
    'root ::= "a\\': "line 1, column 13: it ends in the middle of an escape",
    'root ::= ("other" [other]\n  b-c | other) # other\nb-c ::= "x"\n': "line 2, column 9: rule 'other' not found",
}
"""And what is said of them."""


async def says_which_part(made: Trials) -> None:
    bad, good = '%json {"type": "objekt"}', '%json {"type": "object"}'
    whole = Trial(kind="lark", source=f"start: {good} {bad}\n", parts=((".a", good), (".b", bad)))
    grammars = Trial(kind="lark", source="start:  \n", embedded=((7, 'root ::= "a"', ".a"), (8, "root ::= (", ".b")))
    for trial, said in ((whole, "objekt"), (grammars, "column 11")):
        with pytest.raises(InvalidRequest, match=said) as raised:
            await made.accept(trial, "field", INFO, "a key")
        assert raised.value.param == "field.b" and raised.value.message.startswith("Invalid 'field.b': ")


async def test_verdicts_of_the_real_process():
    async with serving() as (made, records):
        schema = Trial(kind="json_schema", source='{"type": "object"}')
        assert await made.accept(schema, "field", INFO, "a key") == Grammar("json_schema", schema.source)
        gbnf = await made.accept(Trial(kind="ebnf", source='root ::= "yes" | "no" [0-9]+'), "field", INFO, "a key")
        assert gbnf.kind == "lark" and "start" in gbnf.source
        lark = await made.accept(Trial(kind="ebnf", source='start: "yes"\n'), "field", INFO, "a key")
        assert "yes" in lark.source
        assert "objekt" in await refusal(made, Trial(kind="json_schema", source='{"type": "objekt"}'))
        assert "Invalid 'field'" in await refusal(made, Trial(kind="regex", source="("))
        for source, said in GBNF_MISTAKES.items():
            assert await refusal(made, Trial(kind="ebnf", source=source)) == (
                f"Invalid 'field': as GBNF, since it is no Lark with a rule 'start': {said}."
            )
        await says_which_part(made)
        around = ("start: ", "\n")
        own = await refusal(made, Trial(kind="ebnf", source="start: other\n", around=around))
        assert own == "Invalid 'field': line 1, column 8: unknown name: \"other\"."
        made_of_it = await refusal(made, Trial(kind="lark", source="start: other\n"))
        assert made_of_it == "Invalid 'field': unknown name: \"other\"."
        nested = "start: " + "(" * 30_000 + '"a"' + ")" * 30_000 + "\n"
        assert await refusal(made, Trial(kind="lark", source=nested))
        digits = Trial(kind="regex", source="[0-9]+")
        assert await made.accept(digits, "field", INFO, "a key"), "the process is there again"
    assert {each.outcome for each in records} >= {"ok", "refused"}


async def test_a_verdict_is_asked_for_once():
    async with serving(command=echo()) as (made, records):
        trial = Trial(kind="lark", source="a")
        answers = await asyncio.gather(*[made.accept(trial, "field", INFO, "a key") for _ in range(20)])
        assert answers == [Grammar("lark", "a")] * 20 and len(records) == 1
        await made.accept(trial, "field", INFO, "a key")
        assert len(records) == 1


async def test_who_goes_away_leaves_no_answer_behind():
    async with serving(command=echo()) as (made, _):
        first = asyncio.create_task(made.accept(Trial(kind="lark", source="a"), "field", INFO, "a key"))
        await asyncio.sleep(0)
        first.cancel()
        assert await made.accept(Trial(kind="lark", source="b"), "field", INFO, "a key") == Grammar("lark", "b")


async def test_one_that_takes_too_long_is_refused_and_the_next_one_is_not():
    async with serving(command=echo(), timeout=0.2) as (made, records):
        assert "longer to compile than the 0.2 s" in await refusal(made, Trial(kind="lark", source="sleep"))
        assert records[0].outcome == "timeout"
        made._timeout = 60.0
        assert await made.accept(Trial(kind="lark", source="a"), "field", INFO, "a key") == Grammar("lark", "a")
        assert "longer" in await refusal(made, Trial(kind="lark", source="sleep")), "it is known by now"


async def test_the_options_of_the_compiler_are_not_the_callers():
    async with serving() as (made, _):
        assert "%llguidance" in await refusal(
            made, Trial(kind="ebnf", source='%llguidance {"no_forcing": false}\nstart: "a"')
        )


async def test_one_that_ends_the_process_once_has_another_chance(tmp_path):
    marker = tmp_path / "tried"
    program = ECHO.replace(
        "os._exit(9)", f"os.path.exists({str(marker)!r}) or (open({str(marker)!r}, 'w'), os._exit(9))"
    )
    async with serving(command=(sys.executable, "-c", program)) as (made, _):
        assert (await made.accept(Trial(kind="regex", source="die"), "field", INFO, "a key")).source == "die"


async def test_one_that_ends_the_process_is_refused():
    async with serving(command=echo()) as (made, records):
        assert "the compiler fails on it" in await refusal(made, Trial(kind="lark", source="die"))
        assert records[0].outcome == "crash"
        await made.accept(Trial(kind="lark", source="a"), "field", INFO, "a key")
        os.kill(made._process.pid, signal.SIGKILL)
        await made._process.wait()
        assert await made.accept(Trial(kind="lark", source="c"), "field", INFO, "a key") == Grammar("lark", "c")


async def test_few_may_wait():
    async with serving(command=echo(), most_waiting=2) as (made, _):
        waiting = [
            asyncio.create_task(made.accept(Trial(kind="lark", source=name), "field", INFO, "a key")) for name in "ab"
        ]
        await asyncio.sleep(0)
        with pytest.raises(RateLimited, match="--max-queue-grammars"):
            await made.accept(Trial(kind="lark", source="c"), "field", INFO, "a key")
        assert len(await asyncio.gather(*waiting)) == 2


async def test_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr(trials, "LONGEST_WAIT", 0.1)
    async with serving(command=echo(), timeout=0.3) as (made, _):
        asked = [made.accept(Trial(kind="lark", source=name), "field", INFO, "a key") for name in ("sleep", "b")]
        slow, waited = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(slow, InvalidRequest) and "longer" in str(slow)
        assert isinstance(waited, RateLimited) and "try again" in str(waited)
        assert not made._asked and not made._queue


async def test_one_key_that_fills_the_queue_leaves_room_for_another():
    async with serving(command=echo(), most_waiting=4) as (made, _):

        def ask(caller: str, name: str) -> asyncio.Task[Grammar]:
            return asyncio.create_task(made.accept(Trial(kind="lark", source=name), "field", INFO, caller))

        many = [ask("greedy", f"{n}") for n in range(4)]
        await asyncio.sleep(0)
        assert len(made._queue) == 4
        others = [ask(caller, caller) for caller in ("modest", "quiet")]
        answers = await asyncio.gather(*many, *others, return_exceptions=True)
        assert isinstance(answers[0], Grammar) and isinstance(answers[3], RateLimited)
        assert [each.source for each in answers[4:]] == ["modest", "quiet"]
        assert not made._asked


async def test_a_verdict_that_tells_of_the_trial_is_asked_for_again_after_a_while(monkeypatch):
    monkeypatch.setattr(trials, "DOUBTFUL", 0.0)
    async with serving(command=echo(), timeout=0.2) as (made, records):
        assert "longer" in await refusal(made, Trial(kind="lark", source="sleep"))
        assert "longer" in await refusal(made, Trial(kind="lark", source="sleep"))
        assert len(records) == 2


async def test_few_verdicts_are_kept(monkeypatch):
    monkeypatch.setattr(trials, "MOST_KNOWN", 3)
    async with serving(command=echo()) as (made, _):
        for name in "abcdef":
            await made.accept(Trial(kind="lark", source=name), "field", INFO, "a key")
        assert len(made._known) == 3


async def test_the_process_ends_with_its_parent():
    async with serving() as (made, _):
        await made.accept(Trial(kind="regex", source="a"), "field", INFO, "a key")
        process = made._process
        process.stdin.close()
        assert await asyncio.wait_for(process.wait(), 60) == 0
