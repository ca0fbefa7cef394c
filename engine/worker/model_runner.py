"""ModelRunner: one ScheduledBatch in, its tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.batch import PromptLogprobsRequest, ScheduledBatch, StepResult
from engine.layers.attention import AttentionMetadata
from engine.messages import TokenLogprobs
from engine.models.base import Model
from engine.worker.input_buffers import InputBuffers
from engine.worker.kv_cache import KVCache
from engine.worker.sampler import Drawn, Sampler
from kernels.capture import Replay, capture
from kernels.ops import last_rows
from kernels.registry import Kernels

LOGPROB_ROWS = 128
"""Prompt positions whose logits are held at once."""


class ModelRunner:
    def __init__(
        self, model: Model, buffers: InputBuffers, sampler: Sampler, kernels: Kernels, dtype: torch.dtype
    ) -> None:
        """``dtype``: of hidden states."""
        self._model, self._buffers, self._sampler = model, buffers, sampler
        self._machine = kernels.machine
        self._last_rows = kernels.select(last_rows.OP, last_rows.LastRowsSpec(dtype))
        self._replay: Replay | None = None

    @torch.inference_mode()
    def capture(self, cache: KVCache) -> None:
        """From now on every step is over ``cache`` and, where the machine can, one replay of the captured pass."""
        input_ids, metadata = self._buffers.whole()
        self._replay = capture(
            self._machine,
            lambda: self._model.forward(input_ids, cache.layers, metadata),
            lambda hidden: self._sampler.draw(self._logits(hidden, metadata)),
        )

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch, cache: KVCache) -> StepResult:
        """Run the model over the batch and sample where it asks for it. Raises InvalidLogitsError on NaN."""
        hidden, drawn = self.forward(batch, cache)
        starts = np.cumsum(batch.query_lens) - batch.query_lens
        prompt_logprobs = [
            self._prompt_logprobs(hidden[starts[request.row] :], request) for request in batch.prompt_logprobs
        ]
        token_ids, logprobs = self._sampler.finish(drawn, batch.samples)
        return StepResult(token_ids=token_ids, logprobs=logprobs, prompt_logprobs=prompt_logprobs)

    @torch.inference_mode()
    def forward(self, batch: ScheduledBatch, cache: KVCache) -> tuple[Tensor, Drawn]:
        """(final hidden states [T, hidden], what is sampled after each sequence), valid until the next step."""
        tokens, sequences = len(batch.input_ids), len(batch.query_lens)
        self._sampler.prepare(batch.samples, sequences)
        if self._replay is not None:
            self._buffers.write(batch)
            self._replay.run(tokens, sequences)
            return self._replay.output[:tokens], Drawn(*(column[:sequences] for column in self._replay.tail))
        input_ids, metadata = self._buffers.fill(batch)
        hidden = self._model.forward(input_ids, cache.layers, metadata)
        greedy = all(sample.params.greedy for sample in batch.samples)
        return hidden, self._sampler.draw(self._logits(hidden, metadata), greedy=greedy)

    def _logits(self, hidden: Tensor, metadata: AttentionMetadata) -> Tensor:
        """[S, V] float32, after the last token of each sequence."""
        return self._model.logits(self._last_rows(hidden, metadata.query_start_loc))

    def _prompt_logprobs(self, hidden: Tensor, request: PromptLogprobsRequest) -> list[TokenLogprobs]:
        """Of the targets that the first of these hidden states predict."""
        found: list[TokenLogprobs] = []
        for start in range(0, len(request.targets), LOGPROB_ROWS):
            targets = request.targets[start : start + LOGPROB_ROWS]
            logits = self._model.logits(hidden[start : start + len(targets)])
            ids: Sequence[int] = targets.tolist()
            found.extend(self._sampler.logprobs(logits, ids, [request.top] * len(ids)))
        return found
