"""Sequence: one choice while the engine works on it. The Scheduler alone changes it, its blocks by BlockTables."""

from __future__ import annotations

from enum import Enum

import numpy as np

from engine.arrays import IntArray
from engine.block_digests import extend_chain, root_digest
from engine.messages import EngineFinish, Start, TokenLogprobs
from observability.records import ChoiceStats


class Status(Enum):
    WAITING = "waiting"
    """Holds no blocks."""
    RUNNING = "running"
    FINISHED = "finished"
    """Completed, aborted or replaced."""


class Sequence:
    """Prompt and output so far, how much of them is computed, and the blocks that hold it."""

    def __init__(self, start: Start, *, arrival: int, arrived_at: float, block_size: int) -> None:
        """``arrival`` counts the engine's arrivals, ``arrived_at`` is the clock's time in seconds."""
        self.id = start.id
        self.attempt = start.attempt
        self.params = start.params
        self.seed = start.seed
        self.choice = start.choice
        self.grammar = start.grammar
        self.arrival = arrival
        self.arrived_at = arrived_at
        self.started_at: float | None = None
        """When a step first computed it."""
        self.status = Status.WAITING
        self.block_table: list[int] = []
        self.table_row = -1
        """Where the Scheduler's array of block tables has the same ids; -1 while it holds none."""
        self.num_prompt = len(start.prompt)
        self.num_tokens = self.num_prompt + len(start.output_prefix)
        """Prompt and output so far."""
        self.num_computed = 0
        """Of these, the ones whose keys and values are in the block table's blocks."""
        self.num_found = 0
        """Tokens that the prefix cache had of it when it was last admitted."""
        self.num_published = 0
        """Leading blocks of the table whose digests have been offered to the pool."""
        self.cached_tokens: int | None = None
        """Prompt tokens found in the prefix cache when it was first admitted; None before that."""
        self.prompt_logprobs: list[TokenLogprobs] = []
        """Collected until the first output is sent."""
        self.has_replied = False
        """Whether any output of this attempt has been sent."""
        self.needs_prompt_logprobs = start.params.prompt_logprobs is not None
        """Whether the prompt has to be computed in full, and not read from the prefix cache; until the first output."""
        self.under_way = 0
        """Steps that compute some of it and have begun, but not ended."""
        self.deferred_to: tuple[Sequence, int] | None = None
        """An older sequence, and the number of tokens it must have computed before this one is looked at again."""
        self._tokens: IntArray = np.empty(max(self.num_tokens, self.num_prompt + start.params.max_tokens), np.int32)
        self._tokens[: self.num_prompt] = start.prompt
        self._tokens[self.num_prompt : self.num_tokens] = start.output_prefix
        self.newest = (start.output_prefix or start.prompt)[-1]
        """The last token."""
        self.finish = self._find_finish()
        """Why no further token is to be sampled, from the output alone; None while one is."""
        self._block_size = block_size
        self._digests: list[bytes] = []
        self._root = root_digest(start.cache_salt)

    @property
    def num_output(self) -> int:
        return self.num_tokens - self.num_prompt

    @property
    def num_uncomputed(self) -> int:
        return self.num_tokens - self.num_computed

    @property
    def is_stream(self) -> bool:
        """Whether its newest output token is all that is left to compute."""
        return self.num_tokens - self.num_computed == 1 and self.num_tokens > self.num_prompt

    @property
    def prompt_ids(self) -> IntArray:
        return self._tokens[: self.num_prompt]

    @property
    def output_ids(self) -> IntArray:
        return self._tokens[self.num_prompt : self.num_tokens]

    def token_ids(self, start: int, stop: int) -> IntArray:
        """A view of tokens ``start`` … ``stop - 1``; tokens are only ever appended, so it does not change."""
        return self._tokens[start:stop]

    def digests(self, start: int, stop: int) -> list[bytes]:
        """Chained digests of blocks ``start`` … ``stop - 1``, which must be full. Each is computed once."""
        if len(self._digests) < stop:
            extend_chain(self._digests, self._root, self._tokens.data.cast("B"), self._block_size, stop)
        return self._digests[start:stop]

    def prompt_targets(self, tokens: int) -> IntArray:
        """Of the next ``tokens`` positions to compute, the prompt tokens they predict, where those are to be scored."""
        if not self.needs_prompt_logprobs:
            return self._tokens[:0]
        return self._tokens[self.num_computed + 1 : min(self.num_computed + tokens + 1, self.num_prompt)]

    def samples_after(self, tokens: int) -> bool:
        """Whether a step that computes the next ``tokens`` positions samples one more token."""
        return tokens == self.num_uncomputed and self.finish is None

    def goes_on_after(self, tokens: int) -> bool:
        """Whether the token that such a step samples is computed next, unless it is a stop token."""
        return self.samples_after(tokens) and self.num_output + 1 < self.params.max_tokens

    def append(self, token_id: int) -> None:
        self._tokens[self.num_tokens] = self.newest = token_id
        self.num_tokens += 1
        self.finish = self._find_finish()

    def stats(self, now: float) -> ChoiceStats:
        """How it came to its first output, which is sent now."""
        assert self.started_at is not None and self.cached_tokens is not None
        return ChoiceStats(
            queue_time=self.started_at - self.arrived_at,
            prefill_time=now - self.started_at,
            cached_tokens=self.cached_tokens,
        )

    def _find_finish(self) -> EngineFinish | None:
        params, num_output = self.params, self.num_output
        if num_output > params.min_tokens and self.newest in params.stop_token_ids:
            return "stop"
        return "length" if num_output >= params.max_tokens else None
