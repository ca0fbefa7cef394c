"""The KV cache: one tensor, and each layer's view of it."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.errors import ConfigurationError
from engine.layers.attention import LayerCache
from engine.models.base import CacheShape
from kernels.memory import PagesAhead, untouched


class KVCache:
    """Keys and values of every layer, ``num_blocks`` blocks of ``block_size`` tokens each.

    On a CPU a block is one stretch of memory: layer by layer its keys, in the order (head, D, offset), and its values,
    (head, offset, D). One head's scores come from vectors of neighbouring keys, one head reads one stretch, and the
    system, which provides memory as it is first written, is not asked for pages of every layer at once.
    """

    def __init__(
        self, shape: CacheShape, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Raises ConfigurationError where there is no memory for it."""
        self.num_blocks = num_blocks
        self._block_bytes = block_bytes(shape, block_size, dtype)
        self._pages: PagesAhead | None = None
        size = num_blocks * self._block_bytes
        layer_size = (num_blocks, block_size, shape.num_kv_heads, shape.head_dim)
        try:
            if device.type == "cpu":
                memory = untouched(size)
                self._pages = PagesAhead(memory)
                blocks = memory.view(dtype).view(num_blocks, shape.num_layers, 2, -1)
                layers = [_heads_first(layer[:, 0], layer[:, 1], layer_size) for layer in blocks.unbind(1)]
            else:
                whole = torch.zeros((shape.num_layers, 2, *layer_size), dtype=dtype, device=device)
                layers = [(layer[0], layer[1]) for layer in whole]
        except (OSError, OverflowError, torch.OutOfMemoryError) as error:
            raise ConfigurationError(
                f"the KV cache of {size:,} bytes does not fit into memory: lower --kv-cache-memory"
            ) from error
        self.layers: tuple[LayerCache, ...] = tuple(layers)

    def reach(self, block: int) -> None:
        """A block up to which all may soon be in use; the pool hands them out from the first on."""
        if self._pages is not None:
            self._pages.reach((block + 1) * self._block_bytes)

    def use_idle_time(self) -> bool:
        """Make a little of the memory ready that will be written next; False where nothing is left to do."""
        return self._pages is not None and self._pages.provide()


def _heads_first(keys: Tensor, values: Tensor, size: tuple[int, ...]) -> LayerCache:
    """The same memory in a CPU's order, seen as [num_blocks, block_size, Hkv, D]."""
    blocks, block_size, heads, head_dim = size
    return (
        keys.view(blocks, heads, head_dim, block_size).permute(0, 3, 1, 2),
        values.view(blocks, heads, block_size, head_dim).transpose(1, 2),
    )


def block_bytes(shape: CacheShape, block_size: int, dtype: torch.dtype) -> int:
    """Of one block over all layers, keys and values together."""
    return shape.num_layers * 2 * block_size * shape.num_kv_heads * shape.head_dim * dtype.itemsize
