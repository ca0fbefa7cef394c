"""The KV cache: one tensor, and each layer's view of it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.layers.attention import LayerCache
from engine.models.base import CacheShape
from kernels.memory import untouched


class KVCache:
    """Keys and values of every layer, ``num_blocks`` blocks of ``block_size`` tokens each.

    On a CPU a block's keys lie in the order (head, D, offset) and its values in (head, offset, D): one head's scores
    come from vectors of neighbouring keys, and one head reads one stretch of memory.
    """

    def __init__(
        self, shape: CacheShape, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Raises ConfigurationError where there is no memory for it."""
        self.num_blocks = num_blocks
        size = (shape.num_layers, 2, num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
        try:
            memory = (
                untouched(math.prod(size) * dtype.itemsize).view(dtype).view(size)
                if device.type == "cpu"
                else torch.zeros(size, dtype=dtype, device=device)
            )
        except (OSError, OverflowError, torch.OutOfMemoryError) as error:
            raise ConfigurationError(
                f"the KV cache of {math.prod(size) * dtype.itemsize:,} bytes does not fit into memory: "
                "lower --kv-cache-memory"
            ) from error
        layers = (_heads_first(*layer) if device.type == "cpu" else (layer[0], layer[1]) for layer in memory)
        self.layers: tuple[LayerCache, ...] = tuple(layers)


def _heads_first(keys: Tensor, values: Tensor) -> LayerCache:
    """The same memory in a CPU's order, seen as [num_blocks, block_size, Hkv, D]."""
    blocks, block_size, heads, head_dim = keys.shape
    return (
        keys.view(blocks, heads, head_dim, block_size).permute(0, 3, 1, 2),
        values.view(blocks, heads, block_size, head_dim).transpose(1, 2),
    )


def block_bytes(shape: CacheShape, block_size: int, dtype: torch.dtype) -> int:
    """Of one block over all layers, keys and values together."""
    return shape.num_layers * 2 * block_size * shape.num_kv_heads * shape.head_dim * dtype.itemsize
