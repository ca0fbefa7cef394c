"""A stand-in for model and device, and the production scheduler on top of it."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from engine.batch import ScheduledBatch, StepResult
from engine.batch_builder import BatchBuilder
from engine.block_pool import BlockPool
from engine.cache_log import CacheLog
from engine.executor.base import ModelFacts
from engine.messages import Abort, Start, TokenLogprobs, Tokens
from engine.prefill_policy import PromptShare
from engine.sampling_params import SamplingParams
from engine.schedule import Schedule
from engine.scheduler import Scheduler

VOCAB_SIZE = 97
FACTS = ModelFacts(
    device="cpu",
    dtype="float32",
    parameters=1,
    weight_bytes=4,
    max_model_len=256,
    vocab_size=100,
    eos_token_ids=[],
    fingerprint="",
    kernels={},
    block_bytes=1,
)
"""Of a model that an Engine over the stand-in says it has."""


def next_token(tokens: Iterable[int], seed: int, choice: int, position: int) -> int:
    """What the stand-in samples: a function of everything that may decide a token, and of nothing else."""
    return zlib.crc32(repr((list(map(int, tokens)), seed, choice, position)).encode()) % VOCAB_SIZE


def score(tokens: Iterable[int], target: int) -> TokenLogprobs:
    value = zlib.crc32(repr((list(map(int, tokens)), int(target))).encode()) / 2**32
    return TokenLogprobs(logprob=-value, rank=1, top_ids=[], top_logprobs=[])


class SimulatedExecutor:
    """Keeps token ids where a real cache keeps keys and values, and samples from what it reads back there.

    A wrong block table, a prefix hit on a wrong block or a block that is overwritten changes the tokens.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.cache = np.full((num_blocks, block_size), -1)

    def execute(self, batch: ScheduledBatch) -> StepResult:
        assert len(batch.input_ids) == batch.query_lens.sum()
        ends = np.cumsum(batch.query_lens)
        for row, table in enumerate(batch.block_tables):
            chunk = batch.input_ids[ends[row] - batch.query_lens[row] : ends[row]]
            for position, token in enumerate(chunk, batch.context_lens[row]):
                self.cache[table[position // self.block_size], position % self.block_size] = token
        tokens = []
        for sample in batch.samples:
            known = self.read(batch, sample.row)
            if sample.params.has_penalties:
                assert [*sample.prompt_ids, *sample.output_ids] == known and len(sample.output_ids) == sample.position
            else:
                assert sample.prompt_ids is None and sample.output_ids is None
            tokens.append(next_token(known, sample.seed, sample.choice, sample.position))
        scores = []
        for request in batch.prompt_logprobs:
            known = self.read(batch, request.row)
            begin = batch.context_lens[request.row] + 1
            scores.append([score(known[: begin + i], target) for i, target in enumerate(request.targets)])
        logprobs = [
            None if sample.params.logprobs is None else score([], token)
            for sample, token in zip(batch.samples, tokens, strict=True)
        ]
        return StepResult(tokens, logprobs, scores)

    def read(self, batch: ScheduledBatch, row: int) -> list[int]:
        """The tokens of a sequence up to its chunk's end, by way of its block table."""
        length = batch.context_lens[row] + batch.query_lens[row]
        known = [int(token) for token in self.cache[batch.block_tables[row]].reshape(-1)[:length]]
        assert len(known) == length and -1 not in known
        return known


def check(scheduler: Scheduler) -> None:
    """Every block is accounted for, and who waits has none."""
    scheduler.check_integrity()
    for waiting in scheduler._waiting:
        assert (waiting.block_table, waiting.num_computed, waiting.table_row) == ([], 0, -1)


class Harness:
    """Scheduler, pool and stand-in; one second passes in each step."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_batched_tokens: int = 16,
        prompt_share: PromptShare | None = None,
        max_num_seqs: int = 8,
        enable_prefix_caching: bool = True,
    ) -> None:
        self.cache_log = CacheLog()
        self.pool = BlockPool(num_blocks, self.cache_log)
        self.told: set[bytes] = set()
        """What can be found, by what the log has said."""
        self.scheduler = Scheduler(
            self.pool,
            block_size=block_size,
            max_num_batched_tokens=max_num_batched_tokens,
            prompt_share=prompt_share or PromptShare(max_num_batched_tokens),
            max_num_seqs=max_num_seqs,
            max_model_len=num_blocks * block_size,
            enable_prefix_caching=enable_prefix_caching,
        )
        self.builder = BatchBuilder(self.scheduler.block_tables, block_size)
        self.executor = SimulatedExecutor(num_blocks, block_size)
        self.now = 0.0
        self.steps = 0
        self.preemptions = 0
        self.plan: Schedule
        self.batch: ScheduledBatch
        self.outputs: dict[str, list[Tokens]] = defaultdict(list)

    def start(
        self,
        name: str,
        prompt: list[int],
        *,
        attempt: int = 0,
        prefix: Iterable[int] = (),
        salt: str = "",
        choice: int = 0,
        **params: object,
    ) -> Start:
        start = Start(
            id=name,
            attempt=attempt,
            prompt=prompt,
            output_prefix=list(prefix),
            params=SamplingParams(**{"max_tokens": 8} | params),
            seed=5,
            choice=choice,
            cache_salt=salt,
        )
        self.scheduler.add(start, self.now)
        return start

    def abort(self, name: str, attempt: int = 0) -> None:
        self.scheduler.abort(Abort(id=name, attempt=attempt))

    def step(self) -> list[Tokens]:
        self.begin_step()
        self.prepare_step()
        return self.finish_step()

    def begin_step(self) -> None:
        self.plan = self.scheduler.schedule(self.now)
        assert self.plan.rows, "nothing was scheduled"
        self.batch = self.builder.build(self.steps, self.plan)
        self.steps += 1
        self.preemptions += self.plan.preemptions
        self.check_writes()

    def prepare_step(self) -> None:
        self.builder.lay_out_ahead(self.scheduler.prepare(self.plan))

    def finish_step(self) -> list[Tokens]:
        """The step computes only now: what was done since it began must not have changed its batch."""
        result = self.executor.execute(self.batch)
        self.now += 1.0
        outputs = self.scheduler.update(self.plan, result, self.now)
        for output in outputs:
            self.outputs[output.id].append(output)
        check(self.scheduler)
        return outputs

    def check_writes(self) -> None:
        """No block that is about to be written belongs to a second sequence or can be found by one."""
        for table, context in zip(self.tables(), self.batch.context_lens.tolist(), strict=True):
            for block in table[context // self.executor.block_size :]:
                assert self.pool.references(block) == 1
                assert block not in self.pool._digests

    def follow_cache(self) -> None:
        """Take in what the log says, which must be news; then what it has said is what the pool can find."""
        events = self.cache_log.take()
        if events is not None:
            stored, evicted = set(events.stored), set(events.evicted)
            assert len(stored) == len(events.stored) and len(evicted) == len(events.evicted)
            assert stored or evicted
            assert not stored & self.told and evicted <= self.told
            self.told = self.told - evicted | stored
        assert self.told == self.pool._index.keys()

    def run(self, limit: int = 1000) -> None:
        """Until nothing is pending."""
        for _ in range(limit):
            if not self.scheduler.num_pending:
                return
            self.step()
        raise AssertionError(f"{self.scheduler.num_pending} choices are still pending after {limit} steps")

    def tables(self) -> list[list[int]]:
        """The last batch's block tables, without what lies past their ends."""
        ends = self.batch.context_lens + self.batch.query_lens
        blocks = -(-ends // self.executor.block_size)
        return [table[:count].tolist() for table, count in zip(self.batch.block_tables, blocks, strict=True)]

    def query_lens(self) -> dict[str, int]:
        """Tokens that the last step computed, by name."""
        return dict(zip(self.batch.sequence_ids, map(int, self.batch.query_lens), strict=True))

    def tokens(self, name: str) -> list[int]:
        return [token for output in self.outputs[name] for token in output.ids]

    def finish(self, name: str) -> str | None:
        return self.outputs[name][-1].finish


@dataclass(frozen=True)
class Answer:
    tokens: list[int]
    finish: str | None
    prompt_logprobs: list[TokenLogprobs] | None


def alone(start: Start) -> Answer:
    """What a choice is to get anywhere: what it gets where nobody else is, from one step and one block that hold it."""
    length = len(start.prompt) + start.params.max_tokens
    h = Harness(num_blocks=1, block_size=length, max_num_batched_tokens=length)
    h.scheduler.add(start, h.now)
    h.run()
    return Answer(h.tokens(start.id), h.finish(start.id), h.outputs[start.id][0].prompt_logprobs)
