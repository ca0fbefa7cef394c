"""ModelRunner: one ScheduledBatch in, its tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.batch import PromptLogprobsRequest, ScheduledBatch, StepResult
from engine.messages import TokenLogprobs
from engine.models.base import Model
from engine.worker.input_buffers import InputBuffers
from engine.worker.kv_cache import KVCache
from engine.worker.sampler import Sampler
from kernels.capture import Replay, capture
from kernels.registry import Machine

LOGPROB_ROWS = 128
"""Prompt positions whose logits are held at once."""


class ModelRunner:
    def __init__(self, model: Model, buffers: InputBuffers, sampler: Sampler) -> None:
        self._model, self._buffers, self._sampler = model, buffers, sampler
        self._replay: Replay | None = None

    @torch.inference_mode()
    def capture(self, machine: Machine, cache: KVCache) -> None:
        """From now on every step is over ``cache`` and, where the machine can, one replay of the captured pass."""
        input_ids, metadata = self._buffers.whole()
        self._replay = capture(machine, lambda: self._model.forward(input_ids, cache.layers, metadata))

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch, cache: KVCache) -> StepResult:
        """Run the model over the batch and sample where it asks for it. Raises InvalidLogitsError on NaN."""
        hidden = self.forward(batch, cache)
        ends = np.cumsum(batch.query_lens)
        prompt_logprobs = [
            self._prompt_logprobs(hidden[ends[request.row] - batch.query_lens[request.row] :], request)
            for request in batch.prompt_logprobs
        ]
        if not batch.samples:
            return StepResult(token_ids=[], logprobs=[], prompt_logprobs=prompt_logprobs)
        if len(batch.samples) < len(hidden):
            last = torch.from_numpy(ends[[sample.row for sample in batch.samples]] - 1)
            hidden = hidden[last.to(hidden.device)]
        token_ids, logprobs = self._sampler.sample(self._model.logits(hidden), batch.samples)
        return StepResult(token_ids=token_ids, logprobs=logprobs, prompt_logprobs=prompt_logprobs)

    @torch.inference_mode()
    def forward(self, batch: ScheduledBatch, cache: KVCache) -> Tensor:
        """Final hidden states [T, hidden], valid until the next step."""
        if self._replay is None:
            input_ids, metadata = self._buffers.fill(batch)
            return self._model.forward(input_ids, cache.layers, metadata)
        self._buffers.write(batch)
        self._replay.run(len(batch.input_ids), len(batch.query_lens))
        return self._replay.output[: len(batch.input_ids)]

    def _prompt_logprobs(self, hidden: Tensor, request: PromptLogprobsRequest) -> list[TokenLogprobs]:
        """Of the targets that the first of these hidden states predict."""
        found: list[TokenLogprobs] = []
        for start in range(0, len(request.targets), LOGPROB_ROWS):
            targets = request.targets[start : start + LOGPROB_ROWS]
            logits = self._model.logits(hidden[start : start + len(targets)])
            ids: Sequence[int] = targets.tolist()
            found.extend(self._sampler.logprobs(logits, ids, [request.top] * len(ids)))
        return found
