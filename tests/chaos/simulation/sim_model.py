"""A model whose right answers are known: each token is a pure function of the tokens before it and the request.

The executor keeps in every cache slot a checksum of all tokens up to it, computed from what the slot before it holds,
and samples from all the slots that a sequence's block table leads to. So a block that is written twice, freed too
early, found under a wrong digest or missing from a table changes the tokens from there on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from zlib import crc32

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from engine.batch import LATER, ScheduledBatch, StepResult
from engine.executor.base import Executor, ModelFacts
from engine.messages import EngineFinish, TokenLogprobs
from engine.sampling_params import SamplingParams
from gateway.tokenizer import Tokenizer

EOS = 0
PIECES = [".", *"abcdefghijklmnopqrstuvwxyz", *("ab", "bc", "cd", "de", "ef", "fg", "ga", "xy", "yz")]
VOCAB_SIZE = len(PIECES)
_EMPTY = 0xFFFFFFFF
_EOS_ONE_IN = 24


@cache
def tokenizer() -> Tokenizer:
    backend = Backend(models.WordLevel({piece: number for number, piece in enumerate(PIECES)}, unk_token="."))
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


def slot_after(before: int, token: int) -> int:
    return crc32(token.to_bytes(4, "little"), before)


def sample(state: int, params: SamplingParams, seed: int, choice: int, position: int, numerics: str) -> int:
    """``state``: checksum of all slots before."""
    drawn = crc32(struct.pack("<QII", seed, choice, position) + numerics.encode(), state)
    token = EOS if drawn % _EOS_ONE_IN == 0 else 1 + (drawn >> 8) % (VOCAB_SIZE - 1)
    while position < params.min_tokens and token in params.stop_token_ids:
        token = (token + 1) % VOCAB_SIZE
    return token


def score(state: int, target: int) -> TokenLogprobs:
    """``state``: checksum of all slots before the target's."""
    drawn = crc32(target.to_bytes(4, "little"), state)
    return TokenLogprobs(logprob=-(drawn % 4096) / 256, rank=1 + drawn % 7, top_ids=[], top_logprobs=[])


@dataclass(frozen=True)
class Output:
    """What an engine must generate for one choice."""

    ids: list[int]
    logprobs: list[TokenLogprobs]
    prompt_logprobs: list[TokenLogprobs]
    finish: EngineFinish


def right_output(prompt: Sequence[int], params: SamplingParams, seed: int, choice: int, numerics: str) -> Output:
    slot = state = 0
    prompt_logprobs: list[TokenLogprobs] = []
    for number, token in enumerate(prompt):
        if number:
            prompt_logprobs.append(score(state, token))
        slot = slot_after(slot, token)
        state = crc32(slot.to_bytes(4, "little"), state)
    ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    while True:
        token = sample(state, params, seed, choice, len(ids), numerics)
        ids.append(token)
        logprobs.append(score(state, token))
        if len(ids) > params.min_tokens and token in params.stop_token_ids:
            return Output(ids, logprobs, prompt_logprobs, "stop")
        if len(ids) >= params.max_tokens:
            return Output(ids, logprobs, prompt_logprobs, "length")
        slot = slot_after(slot, token)
        state = crc32(slot.to_bytes(4, "little"), state)


class FakeExecutor(Executor):
    """``work`` is told of each batch when it is collected: it lets the time of the step pass, or raises."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        numerics: str,
        depth: int,
        work: Callable[[ScheduledBatch], None],
        is_late: Callable[[], bool],
        *,
        overlap: bool = False,
    ) -> None:
        self._num_blocks, self._block_size, self._numerics, self._depth = num_blocks, block_size, numerics, depth
        self._work, self._is_late, self._overlap = work, is_late, overlap
        self._slots = np.full((num_blocks, block_size), _EMPTY, np.uint32)
        self._under_way: list[ScheduledBatch] = []
        self._newest: dict[int, int] = {}
        """Row of the step that ended last → the token that it sampled."""

    def load(self) -> ModelFacts:
        return ModelFacts(
            device="cpu",
            dtype="float32",
            parameters=1,
            weight_bytes=4,
            max_model_len=self._num_blocks * self._block_size,
            vocab_size=VOCAB_SIZE,
            eos_token_ids=[EOS],
            fingerprint=self._numerics,
            kernels={},
            block_bytes=4 * self._block_size,
        )

    def initialize_cache(self) -> int:
        return self._num_blocks

    @property
    def depth(self) -> int:
        return self._depth

    @property
    def can_be_followed(self) -> bool:
        return self._overlap

    def submit(self, batch: ScheduledBatch) -> None:
        self._under_way.append(batch)

    def collect(self) -> StepResult:
        self._work(self._under_way[0])
        return self._compute(self._under_way.pop(0))

    def check(self) -> None:
        pass

    def shutdown(self) -> None:
        pass

    def _compute(self, batch: ScheduledBatch) -> StepResult:
        flat = self._slots.reshape(-1)
        places: list[np.ndarray] = []
        begin = 0
        inputs = batch.input_ids.copy()
        if batch.carried is not None:
            inputs[: len(batch.carried)] = [self._newest[row] for row in batch.carried.tolist()]
        offsets = np.arange(self._block_size)
        for table, context, count in zip(
            batch.block_tables, batch.context_lens.tolist(), batch.query_lens.tolist(), strict=True
        ):
            where = (table[:, None].astype(np.int64) * self._block_size + offsets).reshape(-1)[: context + count]
            slot = int(flat[where[context - 1]]) if context else 0
            for position, token in enumerate(inputs[begin : begin + count].tolist(), context):
                slot = slot_after(slot, token)
                flat[where[position]] = slot
            places.append(where)
            begin += count
        ids, logprobs = [], []
        for request in batch.samples:
            if self._is_late():
                ids.append(LATER)
                logprobs.append(None)
                continue
            state = crc32(flat[places[request.row]].tobytes())
            token = sample(state, request.params, request.seed, request.choice, request.position, self._numerics)
            ids.append(token)
            logprobs.append(score(state, token) if request.params.logprobs is not None else None)
        scores = []
        for wanted in batch.prompt_logprobs:
            where = places[wanted.row]
            first = int(batch.context_lens[wanted.row]) + 1
            scores.append(
                [
                    score(crc32(flat[where[: first + number]].tobytes()), target)
                    for number, target in enumerate(wanted.targets.tolist())
                ]
            )
        self._newest = {request.row: token for request, token in zip(batch.samples, ids, strict=True)}
        return StepResult(ids, logprobs, scores)
