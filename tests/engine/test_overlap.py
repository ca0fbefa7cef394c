"""Tokens that stay on the device between steps, through the whole engine: every answer is that of steps that wait."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import torch

from engine.batch import NO_TOKEN, SampleRequest
from engine.config import EngineConfig
from engine.demo_model import PATH
from engine.engine import Engine
from engine.errors import ConfigurationError
from engine.executor.multiproc import MultiprocExecutor
from engine.executor.uniproc import UniprocExecutor
from engine.grammar import Grammar
from engine.messages import Abort, Start, TokenLogprobs
from engine.sampling_params import SamplingParams
from engine.worker import worker as worker_module

CONFIG = EngineConfig(
    model=str(PATH),
    block_size=4,
    kv_cache_memory=1 << 26,
    max_num_batched_tokens=48,
    max_num_seqs=8,
    max_model_len=80,
    num_threads=1,
    overlap="on",
)


class Behind:
    """In place of a GPU's copies: they hold nothing before a mark behind them is waited for."""

    def __init__(self) -> None:
        self.under_way: list[tuple[torch.Tensor, torch.Tensor]] = []

    def bring(self, tensor: torch.Tensor) -> torch.Tensor:
        copy = torch.full_like(tensor, 77)
        self.under_way.append((copy, tensor.clone()))
        return copy

    def mark(self) -> Callable[[], None]:
        behind, self.under_way = self.under_way, []

        @torch.inference_mode()
        def wait() -> None:
            for copy, value in behind:
                copy.copy_(value)

        return wait


@dataclass
class Answer:
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] | None = None
    finish: str | None = None


@dataclass
class Setting:
    config: EngineConfig
    executor: Any
    facts: Any
    followed: int = 0
    preemptions: int = 0

    @classmethod
    def of(cls, config: EngineConfig) -> Setting:
        executor = UniprocExecutor(config, lambda *_: None)
        facts = executor.load()
        executor.initialize_cache()
        return cls(config, executor, facts)

    def answers(self, starts: list[tuple[int, Start]], blocks: int, leaves: dict[str, int]) -> dict[str, Answer]:
        """Of requests that arrive before these steps; of some only the first so many tokens are wanted."""
        engine = Engine(self.config, self.executor, self.facts, blocks)
        submit, self.followed, self.preemptions = self.executor.submit, 0, 0
        found = {start.id: Answer() for _, start in starts}
        step = 0

        def counting(batch: Any) -> None:
            self.followed += batch.carried is not None
            submit(batch)

        self.executor.submit = counting
        while engine.is_busy or step <= max(when for when, _ in starts):
            for start in [start for when, start in starts if when == step]:
                assert engine.start(start) is None
            if engine.is_busy:
                output = engine.step()
                self.preemptions += output.stats[0].preemptions
                for each in output.outputs:
                    assert each.failure is None and each.refusal is None
                    answer = found[each.id]
                    answer.ids += each.ids
                    answer.logprobs += each.logprobs or []
                    answer.prompt_logprobs = each.prompt_logprobs or answer.prompt_logprobs
                    answer.finish = each.finish
                    if each.id in leaves and len(answer.ids) >= leaves[each.id]:
                        engine.abort(Abort(id=each.id, attempt=0))
            step += 1
        self.executor.submit = submit
        engine.check_integrity()
        assert engine.state.blocks_used == 0
        return found


@pytest.fixture(scope="module")
def settings() -> tuple[Setting, Setting]:
    """One whose steps wait for each other, and one whose steps do not."""
    waiting = Setting.of(msgspec.structs.replace(CONFIG, overlap="off"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_module, "transfers_of", lambda _: Behind())
        return waiting, Setting.of(CONFIG)


def start(name: str, prompt: list[int], params: SamplingParams, **others: Any) -> Start:
    return Start(id=name, attempt=0, prompt=prompt, params=params, **({"seed": 1} | others))


def requests(draw: random.Random, vocab_size: int) -> list[tuple[int, Start]]:
    """Of every kind, most of them such as a GPU draws alone; some are several choices of one prompt."""
    shared = [draw.randrange(10, vocab_size) for _ in range(30)]
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"temperature": 0.0, "stop_token_ids": tuple(range(0, vocab_size, 9))},
        {"stop_token_ids": tuple(range(0, vocab_size, 9)), "min_tokens": 3},
        {"logprobs": 2},
        {"temperature": 0.0, "logprobs": 1, "prompt_logprobs": 1},
        {"presence_penalty": 0.7, "logprobs": 0},
        {"logit_bias": {7: 3.0}, "logprobs": 1},
        {"bad_words": ((11,), (12, 13))},
        {"grammar": Grammar("regex", "[a-c]{2,9}"), "stop_token_ids": (2,)},
    ]
    starts: list[tuple[int, Start]] = []
    for number in range(14):
        kind = dict(draw.choice(kinds[:6] if draw.random() < 0.7 else kinds))
        grammar = kind.pop("grammar", None)
        params = SamplingParams(**{"max_tokens": draw.randrange(1, 30), "top_p": 0.9} | kind)
        prompt = shared[: draw.choice([1, 17, 30])] + [draw.randrange(10, vocab_size) for _ in range(draw.randrange(9))]
        when = draw.choice([0, 0, draw.randrange(40)])
        for choice in range(draw.choice([1, 1, 3])):
            name = f"{number}-{choice}"
            starts.append((when, start(name, prompt, params, seed=number, choice=choice, grammar=grammar)))
    return starts


@pytest.mark.parametrize(("seed", "blocks"), [(0, 256), (1, 256), (2, 22), (3, 22)])
def test_answers_are_the_same(settings, seed, blocks):
    waiting, overlapping = settings
    draw = random.Random(seed)
    starts = requests(draw, waiting.facts.vocab_size)
    leaves = {start.id: draw.randrange(1, 6) for _, start in starts if draw.random() < 0.15}
    expected = waiting.answers(starts, blocks, leaves)
    assert waiting.followed == 0
    assert overlapping.answers(starts, blocks, leaves) == expected
    assert overlapping.followed > 3
    assert bool(overlapping.preemptions) == (blocks < 100)
    assert {answer.finish for answer in expected.values()} == {"stop", "length", None}


def test_where_all_are_drawn_on_the_device_no_step_waits(settings):
    _, overlapping = settings
    params = SamplingParams(max_tokens=12, logprobs=1)
    found = overlapping.answers([(0, start(str(n), [n, 5, 6], params)) for n in range(10, 13)], 256, {})
    assert overlapping.followed == 11 and all(len(answer.ids) == 12 for answer in found.values())


@pytest.mark.parametrize("kind", [{"presence_penalty": 0.5}, {"logit_bias": {5: 1.0}}, {"bad_words": ((1, 2),)}])
def test_where_the_host_has_to_know_the_tokens_every_step_waits(settings, kind):
    _, overlapping = settings
    params = SamplingParams(max_tokens=5, **kind)
    overlapping.answers([(0, start("a", [4, 5, 6], params))], 256, {})
    assert overlapping.followed == 0


def test_steps_wait_only_until_the_least_number_of_tokens_is_there(settings):
    _, overlapping = settings
    params = SamplingParams(max_tokens=12, min_tokens=4, stop_token_ids=(2,))
    overlapping.answers([(0, start("a", [4, 5, 6], params))], 256, {})
    assert 0 < overlapping.followed <= 7


def test_who_had_no_token_is_not_judged_by_the_step_that_followed(settings):
    """Two rows are ill and the third has just ended: the step that follows has nothing but ill rows."""
    import numpy as np

    from engine.batch import ScheduledBatch

    _, overlapping = settings
    worker = overlapping.executor._worker
    params = SamplingParams(max_tokens=9, temperature=0.0)
    for part in worker._cache.layers[0][:2]:  # keys and values
        part[[20, 30]] = torch.nan

    def batch(rows: list[int], context: int, carried: list[int] | None) -> ScheduledBatch:
        count = len(rows)
        return ScheduledBatch(
            step=0,
            sequence_ids=tuple(map(str, rows)),
            input_ids=np.full(count, 9, np.int32),
            query_lens=np.ones(count, np.int32),
            context_lens=np.full(count, context, np.int32),
            block_tables=np.array([[10 * row + 10, 10 * row + 11] for row in rows], np.int32),
            samples=tuple(SampleRequest(at, params, 0, 0, 0, None, None) for at in range(count)),
            carried=None if carried is None else np.array(carried, np.int32),
        )

    first = worker.launch(batch([0, 1, 2], 3, None))
    assert worker.can_be_followed
    second = worker.launch(batch([1, 2], 4, [1, 2]))
    assert first().token_ids[1:] == [NO_TOKEN, NO_TOKEN]
    assert second().token_ids == [NO_TOKEN, NO_TOKEN]
    for part in worker._cache.layers[0][:2]:  # keys and values
        part[[20, 30]] = 0.0


def test_several_ranks_cannot(settings):
    config = msgspec.structs.replace(CONFIG, tensor_parallel_size=2)
    with pytest.raises(ConfigurationError, match=r"^--overlap on: steps that several ranks compute do not overlap"):
        MultiprocExecutor(config, lambda *_: None)
    assert not worker_module.Worker(msgspec.structs.replace(CONFIG, overlap="auto"), lambda *_: None).overlaps
