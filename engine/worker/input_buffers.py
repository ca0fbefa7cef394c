"""Persistent tensors that a step's inputs are written into, vectorised over its tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.arrays import IntArray
from engine.batch import ScheduledBatch
from engine.layers.attention import AttentionMetadata


class Buffer:
    """An array on the host and its tensor on the device: the same memory on a CPU, a copy on a GPU."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
        self._host = torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")
        self._device = self._host.to(device)  # The same tensor where the device is the host.
        self.array: npt.NDArray[Any] = self._host.numpy()

    def upload(self, rows: int) -> None:
        """Begin to copy the first rows. The array may be written to again once the step has ended."""
        if self._device is not self._host:
            self._device[:rows].copy_(self._host[:rows], non_blocking=True)

    def part(self, *size: int) -> Tensor:
        """The leading part of that size, on the device."""
        return self._device[tuple(slice(length) for length in size)]


class InputBuffers:
    def __init__(self, max_tokens: int, max_seqs: int, max_blocks: int, block_size: int, device: torch.device) -> None:
        self._block_size = block_size
        self._input_ids = Buffer((max_tokens,), torch.int32, device)
        self._positions = Buffer((max_tokens,), torch.int64, device)
        self._slot_mapping = Buffer((max_tokens,), torch.int64, device)
        self._block_tables = Buffer((max_seqs, max_blocks), torch.int32, device)
        self._query_start_loc = Buffer((max_seqs + 1,), torch.int32, device)
        self._carried = Buffer((max_seqs,), torch.int32, device)
        self._seq_lens = Buffer((max_seqs,), torch.int32, device)
        self._one_each = torch.arange(max_seqs + 1, dtype=torch.int32, device=device)
        self._numbers = np.arange(max(max_tokens, max_seqs) + 1)

    def whole(self) -> tuple[Tensor, AttentionMetadata]:
        """(input ids, metadata) of the largest step, over the very memory that ``step`` hands out the beginnings of."""
        tokens, (sequences, blocks) = len(self._input_ids.array), self._block_tables.array.shape
        return self._views(tokens, sequences, blocks, tokens, blocks * self._block_size)

    def decoding(self, sequences: int, length: int) -> tuple[Tensor, AttentionMetadata]:
        """The same of steps with so many sequences, each with one token, none of them longer than ``length``."""
        return self._views(sequences, sequences, self._block_tables.array.shape[1], 1, length)

    def _views(
        self, tokens: int, sequences: int, blocks: int, max_query_len: int, max_seq_len: int
    ) -> tuple[Tensor, AttentionMetadata]:
        metadata = AttentionMetadata(
            positions=self._positions.part(tokens),
            slot_mapping=self._slot_mapping.part(tokens),
            block_tables=self._block_tables.part(sequences, blocks),
            query_start_loc=self._query_start_loc.part(sequences + 1),
            one_each=self._one_each[: sequences + 1],
            seq_lens=self._seq_lens.part(sequences),
            max_query_len=max_query_len,
            max_seq_len=max_seq_len,
        )
        return self._input_ids.part(tokens), metadata

    def write(self, batch: ScheduledBatch) -> None:
        """Write a batch into the host's arrays: where these are the device's own memory, a captured pass reads them."""
        query_lens, context_lens = batch.query_lens, batch.context_lens
        tokens, sequences = len(batch.input_ids), len(query_lens)
        starts = self._query_start_loc.array
        np.cumsum(query_lens, out=starts[1 : sequences + 1])
        row, positions = self._numbers[:sequences], context_lens
        if tokens > sequences:
            row = np.repeat(row, query_lens)
            positions = self._numbers[:tokens] + np.repeat(context_lens - starts[:sequences], query_lens)
        block, offset = np.divmod(positions, self._block_size)
        self._input_ids.array[:tokens] = batch.input_ids
        self._positions.array[:tokens] = positions
        slots = self._slot_mapping.array[:tokens]
        slots[:] = batch.block_tables[row, block]
        slots *= self._block_size
        slots += offset
        np.add(context_lens, query_lens, out=self._seq_lens.array[:sequences])
        self._block_tables.array[:sequences, : batch.block_tables.shape[1]] = batch.block_tables

    def pad(self, sequences: int, padded: int, block: int) -> None:
        """Beside so many sequences of one token each, which are written, others that begin in ``block``."""
        rest = slice(sequences, padded)
        self._input_ids.array[rest] = self._positions.array[rest] = 0
        self._slot_mapping.array[rest] = block * self._block_size
        self._block_tables.array[rest, 0] = block
        self._seq_lens.array[rest] = 1
        self._query_start_loc.array[sequences + 1 : padded + 1] = self._numbers[sequences + 1 : padded + 1]

    def upload(self, tokens: int, sequences: int) -> None:
        """Begin to copy what is written of so many."""
        for buffer in (self._input_ids, self._positions, self._slot_mapping):
            buffer.upload(tokens)
        for buffer in (self._block_tables, self._seq_lens):
            buffer.upload(sequences)
        self._query_start_loc.upload(sequences + 1)

    def carry(self, tokens: Tensor, rows: IntArray) -> None:
        """Put tokens that the device holds, those at ``rows``, in place of the first input ids. After ``upload``."""
        self._carried.array[: len(rows)] = rows
        self._carried.upload(len(rows))
        self._input_ids.part(len(rows)).copy_(tokens.index_select(0, self._carried.part(len(rows))))

    def longest(self, sequences: int) -> int:
        """Tokens of the longest of the sequences that are written."""
        return int(self._seq_lens.array[:sequences].max())

    def step(self, batch: ScheduledBatch) -> tuple[Tensor, AttentionMetadata]:
        """(input ids [T], metadata) of a batch that is written; they live until the next one is."""
        tokens, (sequences, blocks) = len(batch.input_ids), batch.block_tables.shape
        return self._views(tokens, sequences, blocks, int(batch.query_lens.max()), self.longest(sequences))
