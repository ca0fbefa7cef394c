"""Engine: schedule → execute, and meanwhile prepare the next → update. Scheduler + Executor, a clock, no socket.

Where the executor keeps tokens on the device, the next step is not only prepared: it begins while this one goes on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from engine.arrays import IntArray
from engine.batch_builder import BatchBuilder
from engine.block_pool import BlockPool
from engine.cache_log import CacheLog
from engine.config import EngineConfig
from engine.errors import ConfigurationError
from engine.executor.base import Executor, ModelFacts
from engine.flight_record import FlightRecord, union
from engine.messages import Abort, CacheEvents, PoolPicture, Rejected, Start, StepOutput, Tokens
from engine.patience import Patience
from engine.pool_picture import draw
from engine.prefill_policy import PromptShare
from engine.request import fitted, refusal
from engine.sampling_params import SamplingParams
from engine.schedule import Schedule
from engine.scheduler import Scheduler
from observability.records import EngineState, StepStats

Clock = Callable[[], float]
"""Seconds, monotonic."""


def longest_context(config: EngineConfig, facts: ModelFacts, num_blocks: int) -> int:
    """Tokens of prompt and output together that this engine serves.

    Without a setting it is the model's own length, cut to what the cache holds. A setting that cannot be
    kept raises ConfigurationError.
    """
    cache_tokens = num_blocks * config.block_size
    if num_blocks < 1:
        raise ConfigurationError("The KV cache holds not one block: raise --kv-cache-memory.")
    if config.max_model_len is None:
        return min(facts.max_model_len, cache_tokens)
    if config.max_model_len > facts.max_model_len:
        raise ConfigurationError(
            f"--max-model-len {config.max_model_len} is beyond the model's own {facts.max_model_len} tokens."
        )
    if config.max_model_len > cache_tokens:
        raise ConfigurationError(
            f"--max-model-len {config.max_model_len} does not fit the KV cache, which holds {cache_tokens} tokens:"
            " lower it, or raise --kv-cache-memory."
        )
    return config.max_model_len


def prompt_share(config: EngineConfig, facts: ModelFacts) -> PromptShare:
    """On a CPU few rows are computed nearly as fast, each, as a whole budget of them, and a step's time grows with its
    rows: with two more for each stream it takes three times as long as without. What takes 50 ms nobody notices. On a
    GPU the time does not grow so soon.
    """
    if config.max_num_mixed_prefill_tokens is not None:
        return PromptShare(config.max_num_mixed_prefill_tokens)
    if facts.device != "cpu":
        return PromptShare(config.max_num_batched_tokens)
    return PromptShare(32, for_each_stream=2, seconds=0.05)


class Engine:
    """One call at a time. Only ``compute`` goes with another: what takes in messages, ``picture`` or ``prepare``.

    ``steps``, ``num_pending`` and ``step_limit`` may be read by any thread.
    """

    def __init__(
        self,
        config: EngineConfig,
        executor: Executor,
        facts: ModelFacts,
        num_blocks: int,
        *,
        clock: Clock = time.monotonic,
        patience: Patience | None = None,
        record: FlightRecord | None = None,
    ) -> None:
        """``executor`` is loaded and has a cache of ``num_blocks``. Raises ConfigurationError, see above.

        ``patience`` knows of steps that the executor has made for others; ``record`` is told of each step beforehand.
        """
        self.max_model_len = longest_context(config, facts, num_blocks)
        self._vocab_size = facts.vocab_size
        self._executor = executor
        self._clock = clock
        self._cache_log = CacheLog() if config.cache_events else None
        self._pool = BlockPool(num_blocks, self._cache_log)
        self._scheduler = Scheduler(
            self._pool,
            block_size=config.block_size,
            max_num_batched_tokens=config.max_num_batched_tokens,
            prompt_share=prompt_share(config, facts),
            max_num_seqs=config.max_num_seqs,
            max_model_len=self.max_model_len,
            enable_prefix_caching=config.enable_prefix_caching,
            depth=executor.depth,
        )
        self._builder = BatchBuilder(self._scheduler.block_tables, config.block_size)
        self._under_way: deque[Schedule] = deque()
        """Steps that have begun, in the order in which they end."""
        self._rows: deque[tuple[tuple[str, ...], IntArray]] = deque()
        """Of each, for the record."""
        self._record = record
        self._one_by_one = False
        """Whether no step follows another that is under way."""
        self._patience = patience or Patience()
        self._steps = 0
        self._planned_at = self._plan_time = 0.0
        self.step_limit = self._patience.limit
        """Seconds after which the step under way is stuck, or the next one late; None while nothing tells."""

    @property
    def steps(self) -> int:
        """Steps completed."""
        return self._steps

    @property
    def num_pending(self) -> int:
        """Choices begun or waiting."""
        return self._scheduler.num_pending

    @property
    def under_way(self) -> int:
        """Steps that have begun and not ended."""
        return len(self._under_way)

    @property
    def is_busy(self) -> bool:
        """Whether there is a step to begin or to end."""
        return bool(self._under_way) or self._scheduler.num_pending > 0

    @property
    def state(self) -> EngineState:
        return EngineState(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            blocks_used=self._pool.num_used,
            blocks_total=self._pool.num_blocks,
        )

    def start(self, start: Start) -> Rejected | None:
        """Generation ends where the context is full, whatever ``max_tokens`` says."""
        # Who may have ended an engine is to be found at the same position if it does so again.
        self._one_by_one = start.at_once
        rejected = refusal(start, max_model_len=self.max_model_len, vocab_size=self._vocab_size)
        if rejected is None:
            self._scheduler.add(fitted(start, self.max_model_len), self._clock())
        return rejected

    def abort(self, abort: Abort) -> None:
        self._scheduler.abort(abort)

    def begin(self) -> None:
        """Plan and begin steps, as many as may go on at once; to be called only while ``is_busy``.

        ``compute`` and ``finish`` complete the oldest. Until ``finish`` is called, choices may start and be aborted:
        that concerns steps that have not begun.
        """
        began = self._clock()
        self._write_record()
        while self._has_room():
            plan = self._scheduler.schedule(self._clock())
            if not plan.rows:
                break
            follows = len(self._under_way) == self._executor.depth
            batch = self._builder.build(self._steps + len(self._under_way), plan, follows=follows)
            self._under_way.append(plan)
            self._rows.append((batch.sequence_ids, batch.context_lens + batch.query_lens))
            self._patience.begin(len(batch.input_ids))
            self.step_limit = self._patience.limit
            self._write_record()
            self._executor.submit(batch)
        if not self._under_way:
            raise RuntimeError(f"nothing could be scheduled with {self.num_pending} choices pending")
        self._planned_at = self._clock()
        self._plan_time = self._planned_at - began

    def compute(self) -> None:
        """Blocks until the step's tokens are known. Another thread may call what follows meanwhile."""
        self._result = self._executor.collect()

    def prepare(self) -> None:
        """Do what can be done of the next step before the tokens of this one are known; nothing if one follows it."""
        if len(self._under_way) <= self._executor.depth:
            self._builder.lay_out_ahead(self._scheduler.prepare(self._under_way[0]))

    def finish(self) -> StepOutput:
        """Take in what the step computed; gives its output alone."""
        plan, ended = self._under_way.popleft(), self._clock()
        if len(self._under_way) == self._executor.depth:
            self._under_way[0].began = ended
        self._rows.popleft()
        self._patience.end()
        self.step_limit = self._patience.limit
        outputs = self._scheduler.update(plan, self._result, ended)
        stats = self._stats(plan, outputs, ended)
        self._steps += 1
        return StepOutput(started=plan.started, outputs=outputs, stats=[stats])

    def step(self) -> StepOutput:
        """One whole step; to be called only while something is pending."""
        self.begin()
        self.prepare()
        self.compute()
        return self.finish()

    def use_idle_time(self) -> bool:
        """To be called while nothing is pending, for as long as it gives True; it takes a few milliseconds."""
        return self._executor.use_idle_time()

    def cache_events(self) -> CacheEvents | None:
        """What has changed in the prefix cache since the last call; None where nothing has or nobody is to know."""
        return self._cache_log.take() if self._cache_log is not None else None

    def reset_cache(self) -> None:
        """Nothing that is in the prefix cache now can be found any more. Sequences keep the blocks they hold."""
        self._pool.withdraw_all()

    def picture(self, cells: int) -> PoolPicture:
        """Who holds which blocks, ``cells`` of them at most. O(blocks in use)."""
        return draw(self._pool, self._scheduler.running, self.state, cells)

    def check_executor(self) -> None:
        """Raises RankError where a rank is lost: for idle times, in which nothing else would show it."""
        self._executor.check()

    def check_integrity(self) -> None:
        """Raises IntegrityError where a block has leaked or the prefix index is wrong. O(blocks): for idle times."""
        self._scheduler.check_integrity()

    def _has_room(self) -> bool:
        """Whether one more step may begin; where it is to follow another one, what goes on in it is planned."""
        depth = self._executor.depth
        if len(self._under_way) < depth:
            return True
        if depth > 1 or len(self._under_way) > 1 or self._one_by_one or not self._executor.can_be_followed:
            return False
        going = self._scheduler.follow(self._under_way[0])
        if going is None:
            return False
        self._builder.lay_out_ahead(going)
        return True

    def _write_record(self) -> None:
        if self._record is None:
            return
        if self._rows:
            self._record.write(*union(self._rows))
        else:
            self._record.clear()

    def _stats(self, plan: Schedule, outputs: list[Tokens], ended: float) -> StepStats:
        return StepStats(
            step=self._steps,
            duration=ended - plan.began,
            plan_time=self._plan_time,
            compute_time=ended - self._planned_at,
            update_time=self._clock() - ended,
            scheduled_tokens=plan.scheduled_tokens,
            prompt_tokens=plan.scheduled_tokens - plan.decode_tokens,
            generated_tokens=sum(len(output.ids) for output in outputs),
            preemptions=plan.preemptions,
            prefix_queries=plan.prefix_queries,
            prefix_hits=plan.prefix_hits,
            state=self.state,
        )


def warm_up(
    config: EngineConfig, executor: Executor, facts: ModelFacts, num_blocks: int, patience: Patience | None = None
) -> None:
    """Let a throw-away engine generate two tokens, so that the first request does not pay for first times.

    It also turns a model that loads but cannot run into a failed start. ``patience`` learns from these steps.
    """
    engine = Engine(config, executor, facts, num_blocks, patience=patience)
    length = min(8, engine.max_model_len - 2)
    if length > 0:
        engine.start(Start(id="warm-up", attempt=0, prompt=[0] * length, params=SamplingParams(max_tokens=2), seed=0))
    while engine.is_busy:
        for output in engine.step().outputs:
            if output.failure is not None:
                raise RuntimeError(f"warm-up: {output.failure}")
