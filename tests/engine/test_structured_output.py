"""Engines that generate by grammars: every finished answer is what was asked for, whatever else is in the batch,
after preemptions, and when another engine goes on."""

from __future__ import annotations

import json
import os
import re
import threading
from typing import Any

import jsonschema
import msgspec
import pytest
from random_schemas import random_schema

from engine.config import EngineConfig
from engine.demo_model import PATH
from engine.engine import Engine
from engine.executor.multiproc import MultiprocExecutor
from engine.executor.uniproc import UniprocExecutor
from engine.grammar import Grammar
from engine.messages import Rejected, Start
from engine.sampling_params import SamplingParams
from engine.token_pieces import load_backend

EOS = 2
BLOCKS = 256
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
BACKEND = load_backend(PATH)
PROMPT = BACKEND.encode("Tell me about a person.", add_special_tokens=False).ids
CONFIG = EngineConfig(
    model=str(PATH),
    block_size=16,
    kv_cache_memory=1 << 26,
    max_num_batched_tokens=256,
    max_num_seqs=32,
    max_model_len=288,
    num_threads=2,
    executor="uniproc",
)


class Generated(msgspec.Struct):
    """What came of a choice."""

    ids: list[int]
    finish: str | None = None
    error: str | None = None

    @property
    def text(self) -> str:
        return BACKEND.decode([token for token in self.ids if token != EOS], skip_special_tokens=False)


class Setting:
    """An executor that engines are made on."""

    def __init__(self, config: EngineConfig, executor_class: Any = UniprocExecutor) -> None:
        self.config = config
        self.executor = executor_class(config, lambda *_: None)
        self.facts = self.executor.load()
        self.executor.initialize_cache()

    def generate(self, starts: list[Start], *, blocks: int = BLOCKS) -> dict[str, Generated]:
        engine = Engine(self.config, self.executor, self.facts, blocks)
        found = {start.id: Generated(list(start.output_prefix)) for start in starts}
        for start in starts:
            assert not isinstance(engine.start(start), Rejected)
        self.preemptions = 0
        while engine.is_busy:
            step = engine.step()
            self.preemptions += step.stats[0].preemptions
            for output in step.outputs:
                assert output.at == len(found[output.id].ids)
                found[output.id].ids += output.ids
                found[output.id].finish, found[output.id].error = output.finish, output.failure or output.refusal
        engine.check_integrity()
        return found


@pytest.fixture(scope="module")
def setting():
    setting = Setting(CONFIG)
    yield setting
    setting.executor.shutdown()


def start(
    number: int, grammar: Grammar | None, *, max_tokens: int = 200, prefix: list[int] | None = None, **params: Any
) -> Start:
    settings: dict[str, Any] = {"temperature": 1.0, "stop_token_ids": (EOS,), **params}
    return Start(
        id=str(number),
        attempt=0,
        prompt=PROMPT,
        output_prefix=prefix or [],
        params=SamplingParams(max_tokens=max_tokens, **settings),
        seed=number,
        grammar=grammar,
    )


def by_schema(schema: dict[str, Any]) -> Grammar:
    return Grammar("json_schema", json.dumps(schema))


def mixed(count: int = 12) -> list[Start]:
    kinds = [by_schema(PERSON), None, Grammar("regex", "[a-z]{3,8} [0-9]{2}"), Grammar("lark", 'start: "yes" | "no"')]
    temperatures = (1.0, 0.0, 1.5)
    return [start(n, kinds[n % 4], max_tokens=60, temperature=temperatures[n % 3]) for n in range(count)]


def check(found: Generated, number: int) -> None:
    assert found.error is None
    if found.finish != "stop":
        return
    match number % 4:
        case 0:
            jsonschema.validate(json.loads(found.text), PERSON)
        case 2:
            assert re.fullmatch("[a-z]{3,8} [0-9]{2}", found.text)
        case 3:
            assert found.text in ("yes", "no")


def test_a_batch_of_every_kind(setting):
    together = setting.generate(mixed())
    for name, found in together.items():
        check(found, int(name))
    assert sum(found.finish == "stop" for found in together.values()) >= 6
    for one in mixed():
        assert setting.generate([one])[one.id] == together[one.id], "an answer depends on its request alone"


def test_free_answers_do_not_change_beside_constrained_ones(setting):
    free = [each for each in mixed() if each.grammar is None]
    together = setting.generate(mixed())
    assert setting.generate(free) == {each.id: together[each.id] for each in free}


def test_preempted_answers_are_the_same(setting):
    starts = [start(n, Grammar("regex", "[a-z ]{100,140}[.!]")) for n in range(8)]
    expected = setting.generate(starts)
    assert setting.preemptions == 0
    assert setting.generate(starts, blocks=18) == expected
    assert setting.preemptions > 0


def test_another_engine_goes_on_where_one_was_lost(setting):
    expected = setting.generate(mixed())
    for cut in (1, 3, 7):
        rest = [
            msgspec.structs.replace(each, output_prefix=expected[each.id].ids[:cut])
            for each in mixed()
            if len(expected[each.id].ids) > cut
        ]
        assert setting.generate(rest) == {each.id: expected[each.id] for each in rest}


@pytest.mark.slow
def test_ranks_give_the_same_answers(setting):
    shape = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    ranks = Setting(msgspec.structs.replace(CONFIG, executor="multiproc", **shape), MultiprocExecutor)
    try:
        assert ranks.generate(mixed()) == setting.generate(mixed())
    finally:
        ranks.executor.shutdown()


def test_penalties_biases_and_logprobs_beside_a_grammar(setting):
    ids = BACKEND.encode("yes", add_special_tokens=False).ids
    grammar = Grammar("lark", 'start: "yes" | "no"')
    starts = [
        start(n, grammar, logit_bias={ids[0]: bias}, presence_penalty=0.5, logprobs=3)
        for n, bias in enumerate([100.0, -100.0])
    ]
    found = setting.generate(starts)
    assert [found[str(n)].text for n in range(2)] == ["yes", "no"]


def test_a_cut_answer_says_length(setting):
    found = setting.generate([start(1, by_schema(PERSON), max_tokens=5)])["1"]
    assert found.finish == "length" and len(found.ids) == 5


def test_what_rules_out_every_token_ends_that_choice_alone(setting):
    forbidden = BACKEND.encode("yes", add_special_tokens=False).ids[0]
    starts = [
        start(0, Grammar("lark", 'start: "yes"'), bad_words=((forbidden,),), allowed_token_ids=(forbidden, EOS)),
        start(1, Grammar("regex", "(")),
        start(2, None, max_tokens=20),
        start(3, Grammar("lark", 'start: "yes" | "no"')),
    ]
    found = setting.generate(starts)
    assert "rule out every one" in found["0"].error and "by its grammar" in found["1"].error
    assert found["2"].error is None and len(found["2"].ids) > 0
    check(found["3"], 3)


def test_allowed_tokens_and_bad_words(setting):
    allowed = tuple(sorted({*BACKEND.encode("one two three", add_special_tokens=False).ids, EOS}))
    found = setting.generate([start(n, None, max_tokens=40, allowed_token_ids=allowed) for n in range(4)])
    assert all(set(each.ids) <= set(allowed) for each in found.values())
    allowed = allowed[1:]
    pair = setting.generate([start(0, None, max_tokens=40, allowed_token_ids=allowed)])["0"].ids[:2]
    again = setting.generate([start(0, None, max_tokens=40, allowed_token_ids=allowed, bad_words=(tuple(pair),))])
    ids = again["0"].ids
    assert ids[0] == pair[0] and all(ids[at : at + 2] != pair for at in range(len(ids)))


def test_random_schemas(setting):
    """Whatever the schema and wherever it is cut, a finished answer is valid."""
    count = int(os.environ.get("PENSTOCK_TEST_SCHEMAS", "256"))
    finished = 0
    for first in range(0, count, 64):
        schemas = {number: random_schema(number) for number in range(first, min(first + 64, count))}
        found = setting.generate(
            [
                start(number, by_schema(schema), max_tokens=1 + number * 7919 % 240, temperature=0.6 + number % 5 * 0.3)
                for number, schema in schemas.items()
            ]
        )
        for number, schema in schemas.items():
            answer = found[str(number)]
            assert answer.error is None and answer.finish in ("stop", "length"), (number, schema, answer.error)
            if answer.finish == "stop":
                finished += 1
                jsonschema.validate(json.loads(answer.text), schema)
    print(f"{finished} of {count} answers finished")
    assert finished > count // 5


def test_a_grammar_that_takes_its_time_holds_nobody_up(setting, monkeypatch):
    masks = setting.executor._worker._masks
    goes_on, build = threading.Event(), masks._build

    def slowly(request):
        assert goes_on.wait(60)
        return build(request)

    slow, free = start(1, Grammar("regex", "[a-f]{9}")), start(2, None, max_tokens=30, stop_token_ids=())
    expected = setting.generate([slow, free])
    monkeypatch.setattr(masks, "_build", slowly)
    engine = Engine(setting.config, setting.executor, setting.facts, BLOCKS)
    engine.start(slow)
    engine.start(free)
    ids: dict[str, list[int]] = {"1": [], "2": []}
    while engine.is_busy:
        for output in engine.step().outputs:
            ids[output.id] += output.ids
        if len(ids["2"]) == 30:
            goes_on.set()
        assert goes_on.is_set() or not ids["1"]
    assert ids == {name: found.ids for name, found in expected.items()}
