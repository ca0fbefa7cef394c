"""ModelRunner: one ScheduledBatch in, its tokens out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.batch import PromptLogprobsRequest, ScheduledBatch, StepResult
from engine.messages import TokenLogprobs
from engine.models.base import Model
from engine.parallel import ALONE, Parallel
from engine.worker.cuda_graphs import Capturing, DecodeGraphs
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
        self,
        model: Model,
        buffers: InputBuffers,
        sampler: Sampler,
        kernels: Kernels,
        dtype: torch.dtype,
        parallel: Parallel = ALONE,
        capturing: Capturing | None = None,
    ) -> None:
        """``dtype``: of hidden states; ``capturing``: what makes graphs of steps, where the device can."""
        self._model, self._buffers, self._sampler, self._parallel = model, buffers, sampler, parallel
        self._machine = kernels.machine
        self._last_rows = kernels.select(last_rows.OP, last_rows.LastRowsSpec(dtype))
        self._replay: Replay | None = None
        self._capturing = capturing
        self._graphs: DecodeGraphs[tuple[Tensor, Drawn | None]] | None = None
        self._spare = 0
        input_ids, _ = buffers.whole()
        self._inputs = input_ids
        """What the largest step begins with: token ids or, after the first stage, what the stage before sends."""
        if not parallel.first:
            self._inputs = torch.zeros(len(input_ids), model.hidden_size, dtype=dtype, device=input_ids.device)

    @torch.inference_mode()
    def capture(self, cache: KVCache) -> None:
        """From now on every step is over ``cache`` and, where the machine can, one replay of the captured pass.

        The last block of the cache is then for rows that nothing is asked of, where there is ``capturing``.
        """
        input_ids, metadata = self._buffers.whole()
        if self._capturing is not None:

            def decode(sequences: int, length: int) -> tuple[Tensor, Drawn | None]:
                input_ids, metadata = self._buffers.decoding(sequences, length)
                hidden = self._model.forward(input_ids, cache.layers, metadata)
                return hidden, self._draw(hidden)

            self._spare = cache.num_blocks - 1
            most = min(len(input_ids), len(metadata.seq_lens))
            self._graphs = DecodeGraphs(self._capturing, decode, most, metadata.max_seq_len)
            return
        self._replay = capture(
            self._machine,
            lambda: self._model.forward(self._inputs, cache.layers, metadata),
            lambda hidden: self._draw(hidden) or (),
        )

    @torch.inference_mode()
    def execute(self, batch: ScheduledBatch, cache: KVCache) -> StepResult | None:
        """Run the model over the batch and sample where it asks for it. Raises InvalidLogitsError, see ``Sampler``.

        None on a rank that does not sample.
        """
        try:
            return self._execute(batch, cache)
        finally:
            # Memory of the host's that is copied from is written to in the next step.
            if self._inputs.is_cuda:
                torch.cuda.current_stream().synchronize()

    def _execute(self, batch: ScheduledBatch, cache: KVCache) -> StepResult | None:
        hidden, drawn = self.forward(batch, cache, every_token=bool(batch.prompt_logprobs))
        if not self._parallel.last:
            assert self._parallel.pipe is not None, "there is a next stage"
            self._parallel.pipe.send(hidden)
            return None
        starts = np.cumsum(batch.query_lens) - batch.query_lens
        prompt_logprobs = [
            self._prompt_logprobs(hidden[starts[request.row] :], request) for request in batch.prompt_logprobs
        ]
        if drawn is None:
            return None
        token_ids, logprobs, refusals = self._sampler.finish(drawn, batch.samples)
        return StepResult(token_ids, logprobs, prompt_logprobs, refusals)

    @torch.inference_mode()
    def forward(
        self, batch: ScheduledBatch, cache: KVCache, *, every_token: bool = False
    ) -> tuple[Tensor, Drawn | None]:
        """(final hidden states, what is sampled after each sequence), valid until the next step.

        The states are those of ``Model.forward``, [S, hidden] or [T, hidden]; a captured pass has the former, so all
        are computed call by call. Before the last stage of a pipeline they are what the next one goes on from; a rank
        that does not sample has None.
        """
        tokens, sequences = len(batch.input_ids), len(batch.query_lens)
        if self._graphs is not None and tokens == sequences:
            return self._decode(batch, self._graphs)
        if self._parallel.samples:
            self._sampler.prepare(batch.samples, sequences)
        if not self._parallel.first:
            assert self._parallel.pipe is not None, "there is a stage before"
            self._parallel.pipe.receive(self._inputs[:tokens])
        if self._replay is not None and not (every_token and tokens > sequences):
            self._buffers.write(batch)
            self._replay.run(tokens, sequences)
            drawn = [column[:sequences] for column in self._replay.tail]
            rows = sequences if self._parallel.last else tokens
            return self._replay.output[:rows], Drawn(*drawn) if drawn else None
        input_ids, metadata = self._buffers.fill(batch)
        inputs = input_ids if self._parallel.first else self._inputs[:tokens]
        hidden = self._model.forward(inputs, cache.layers, metadata, every_token=every_token)
        greedy = all(sample.params.greedy for sample in batch.samples)
        last = hidden
        if self._parallel.last and every_token:
            last = self._last_rows(hidden, metadata.query_start_loc)
        return hidden, self._draw(last, greedy=greedy)

    def _decode(
        self, batch: ScheduledBatch, graphs: DecodeGraphs[tuple[Tensor, Drawn | None]]
    ) -> tuple[Tensor, Drawn | None]:
        """``forward`` of a step with one token for each sequence."""
        sequences = len(batch.query_lens)
        padded = graphs.sequences(sequences)
        self._sampler.prepare(batch.samples, padded)
        self._buffers.write(batch)
        self._buffers.pad(sequences, padded, self._spare)
        self._buffers.upload(padded, padded)
        hidden, drawn = graphs.run(padded, self._buffers.longest(sequences))
        return hidden[:sequences], drawn and Drawn(*(column[:sequences] for column in drawn))

    def _draw(self, hidden: Tensor, *, greedy: bool = False) -> Drawn | None:
        """After hidden states [S, hidden], on the rank that samples; see ``Sampler.draw``."""
        if not self._parallel.last:
            return None
        logits = self._model.logits(hidden)
        return None if logits is None else self._sampler.draw(logits, greedy=greedy)

    def _prompt_logprobs(self, hidden: Tensor, request: PromptLogprobsRequest) -> list[TokenLogprobs]:
        """Of the targets that the first of these hidden states predict; none on a rank that does not sample."""
        found: list[TokenLogprobs] = []
        for start in range(0, len(request.targets), LOGPROB_ROWS):
            targets = request.targets[start : start + LOGPROB_ROWS]
            logits = self._model.logits(hidden[start : start + len(targets)])
            if logits is not None:
                ids: Sequence[int] = targets.tolist()
                found.extend(self._sampler.logprobs(logits, ids, [request.top] * len(ids)))
        return found
