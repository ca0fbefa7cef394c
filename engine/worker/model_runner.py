"""ModelRunner: one ScheduledBatch in, its tokens out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from engine.batch import NO_TOKEN, PromptLogprobsRequest, ScheduledBatch, StepResult
from engine.models.base import Model, run_at_once
from engine.parallel import ALONE, Parallel
from engine.worker.cuda_graphs import Capturing, DecodeGraphs, PieceGraphs
from engine.worker.input_buffers import InputBuffers
from engine.worker.kv_cache import KVCache
from engine.worker.sampler import Drawn, Launched, Sampler, Scores
from engine.worker.transfers import Transfers
from kernels.capture import Replay, capture
from kernels.ops import last_rows
from kernels.registry import Kernels

LOGPROB_ROWS = 128
"""Prompt positions whose logits are held at once."""


class ModelRunner:
    """``launch`` a step, then wait for its result. A step may be launched before the one before it is waited for, which
    then has to be one that ``can_be_followed``.
    """

    def __init__(
        self,
        model: Model,
        buffers: InputBuffers,
        sampler: Sampler,
        kernels: Kernels,
        dtype: torch.dtype,
        transfers: Transfers,
        parallel: Parallel = ALONE,
        capturing: Capturing | None = None,
    ) -> None:
        """``dtype``: of hidden states; ``capturing``: what makes graphs of steps, where the device can."""
        self._model, self._buffers, self._sampler, self._parallel = model, buffers, sampler, parallel
        self._machine, self._transfers = kernels.machine, transfers
        self._last_rows = kernels.select(last_rows.OP, last_rows.LastRowsSpec(dtype))
        self._replay: Replay | None = None
        self._capturing = capturing
        self._graphs: DecodeGraphs[tuple[Tensor, Drawn | None]] | None = None
        self._run_piece = run_at_once
        self._spare = 0
        self._uploaded = transfers.mark()
        """Waits until the host's arrays may be written to again."""
        self._tokens: Tensor | None = None
        """Of each row of the newest step, on the device."""
        self._silent: set[int] = set()
        """Rows that had no token, of the last step that was waited for."""
        self.can_be_followed = False
        """Whether the tokens of the newest step, and of one that goes on with them, are drawn without the host."""
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
            self._run_piece = PieceGraphs(self._capturing, len(input_ids), self._model.cache_shape.num_layers).run
            return
        self._replay = capture(
            self._machine,
            lambda: self._model.forward(self._inputs, cache.layers, metadata),
            lambda hidden: self._draw(hidden) or (),
        )

    @torch.inference_mode()
    def launch(self, batch: ScheduledBatch, cache: KVCache) -> Callable[[], StepResult | None]:
        """Run the model over the batch and sample where it asks for it.

        What it gives waits for the result, which is None on a rank that does not sample, and is called in the order of
        the steps. It raises InvalidLogitsError, see ``Sampler``.
        """
        hidden, drawn = self.forward(batch, cache, every_token=bool(batch.prompt_logprobs))
        scores: list[list[Scores]] = []
        if self._parallel.last:
            starts = np.cumsum(batch.query_lens) - batch.query_lens
            scores = [self._prompt_scores(hidden[starts[each.row] :], each) for each in batch.prompt_logprobs]
        else:
            assert self._parallel.pipe is not None, "there is a next stage"
            self._parallel.pipe.send(hidden)
        launched = None
        if drawn is not None:
            self._tokens = drawn.tokens
            launched = self._sampler.launch(drawn, batch.samples)
        arrived = self._transfers.mark()

        def result() -> StepResult | None:
            arrived()
            return None if launched is None else self._finish(batch, launched, scores)

        return result

    @torch.inference_mode()
    def _finish(self, batch: ScheduledBatch, launched: Launched, scores: list[list[Scores]]) -> StepResult:
        void: list[int] = []
        if self._silent and batch.carried is not None:
            rows = [row for row, before in enumerate(batch.carried.tolist()) if before in self._silent]
            void = [place for place, request in enumerate(batch.samples) if request.row in rows]
        token_ids, logprobs, refusals = self._sampler.finish(launched, void)
        self._silent.clear()
        if NO_TOKEN in token_ids:
            pairs = zip(batch.samples, token_ids, strict=True)
            self._silent = {request.row for request, token in pairs if token == NO_TOKEN}
        prompt_logprobs = [[entry for each in parts for entry in each.entries()] for parts in scores]
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
            padded = self._graphs.sequences(sequences)
            self._write(batch, padded)
            hidden, drawn = self._graphs.run(padded, self._buffers.longest(sequences))
            return hidden[:sequences], drawn and Drawn(*(column[:sequences] for column in drawn))
        self._write(batch, sequences)
        if self._replay is not None and not (every_token and tokens > sequences):
            self._replay.run(tokens, sequences)
            tail = [column[:sequences] for column in self._replay.tail]
            rows = sequences if self._parallel.last else tokens
            return self._replay.output[:rows], Drawn(*tail) if tail else None
        input_ids, metadata = self._buffers.step(batch)
        inputs = input_ids if self._parallel.first else self._inputs[:tokens]
        hidden = self._model.forward(inputs, cache.layers, metadata, every_token=every_token, run=self._run_piece)
        greedy = all(sample.params.greedy for sample in batch.samples)
        last = hidden
        if self._parallel.last and every_token:
            last = self._last_rows(hidden, metadata.query_start_loc)
        return hidden, self._draw(last, greedy=greedy)

    def _write(self, batch: ScheduledBatch, rows: int) -> None:
        """Bring a step's inputs, for so many sequences, to where they are read."""
        self._uploaded()
        tokens, sequences = len(batch.input_ids), len(batch.query_lens)
        if self._parallel.samples:
            self.can_be_followed = self._sampler.prepare(batch.samples, rows)
        if not self._parallel.first:
            assert self._parallel.pipe is not None, "there is a stage before"
            self._parallel.pipe.receive(self._inputs[:tokens])
        self._buffers.write(batch)
        if rows > sequences:
            self._buffers.pad(sequences, rows, self._spare)
        self._buffers.upload(max(tokens, rows), rows)
        if batch.carried is not None:
            assert self._tokens is not None, "it follows a step that samples"
            # Without a token there is some number, and no matter which.
            self._buffers.carry(self._tokens.clamp(0, self._model.vocab_size - 1), batch.carried)
        self._uploaded = self._transfers.mark()

    def _draw(self, hidden: Tensor, *, greedy: bool = False) -> Drawn | None:
        """After hidden states [S, hidden], on the rank that samples; see ``Sampler.draw``."""
        if not self._parallel.last:
            return None
        logits = self._model.logits(hidden)
        return None if logits is None else self._sampler.draw(logits, greedy=greedy)

    def _prompt_scores(self, hidden: Tensor, request: PromptLogprobsRequest) -> list[Scores]:
        """Of the targets that the first of these hidden states predict; none on a rank that does not sample."""
        found: list[Scores] = []
        for start in range(0, len(request.targets), LOGPROB_ROWS):
            targets: Sequence[int] = request.targets[start : start + LOGPROB_ROWS].tolist()
            logits = self._model.logits(hidden[start : start + len(targets)])
            if logits is not None:
                ids = torch.tensor(targets, dtype=torch.int64).to(logits.device, non_blocking=True)
                scores = self._sampler.score(logits, ids, [request.top] * len(targets))
                found.append(scores.brought(self._transfers))
        return found
