"""The KV cache: one tensor, and each layer's view of it."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.config import KVCacheDType
from engine.errors import ConfigurationError
from engine.layers.attention import LayerCache
from engine.models.base import CacheShape
from kernels.kv_formats import FP8, SCALE, cache_dtypes, has_scales
from kernels.memory import PagesAhead, untouched

DTYPES: dict[KVCacheDType, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp8": FP8,
    "int8": torch.int8,
}


class KVCache:
    """Keys and values of every layer, ``num_blocks`` blocks of ``block_size`` tokens each.

    On a CPU a block is one stretch of memory: layer by layer its keys, in the order (head, D, offset), its values,
    (head, offset, D), and where there are any the scales of both, (head, offset). One head's scores come from vectors
    of neighbouring keys, one head reads one stretch, and the system, which provides memory as it is first written, is
    not asked for pages of every layer at once.
    """

    def __init__(
        self, shape: CacheShape, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        """Raises ConfigurationError where there is no memory for it."""
        self.num_blocks = num_blocks
        self._block_bytes = block_bytes(shape, block_size, dtype)
        self._pages: PagesAhead | None = None
        size = num_blocks * self._block_bytes
        try:
            if device.type == "cpu":
                memory = untouched(size)
                self._pages = PagesAhead(memory)
                blocks = memory.view(num_blocks, shape.num_layers, -1)
                layers = [_of_blocks(layer, shape, block_size, dtype) for layer in blocks.unbind(1)]
            else:
                layers = _by_layers(num_blocks, shape, block_size, dtype, device)
        except (OSError, OverflowError, torch.OutOfMemoryError) as error:
            raise ConfigurationError(
                f"the KV cache of {size:,} bytes does not fit into memory: lower --kv-cache-memory"
            ) from error
        self.layers = tuple(layers)

    def reach(self, block: int) -> None:
        """A block up to which all may soon be in use; the pool hands them out from the first on."""
        if self._pages is not None:
            self._pages.reach((block + 1) * self._block_bytes)

    def use_idle_time(self) -> bool:
        """Make a little of the memory ready that will be written next; False where nothing is left to do."""
        return self._pages is not None and self._pages.provide()


def _of_blocks(memory: Tensor, shape: CacheShape, block_size: int, dtype: torch.dtype) -> LayerCache:
    """One layer of a CPU's cache, by its bytes of every block [num_blocks, bytes]."""
    blocks, heads, head_dim = len(memory), shape.num_kv_heads, shape.head_dim
    size = heads * block_size * head_dim * dtype.itemsize
    keys = memory[:, :size].view(dtype).view(blocks, heads, head_dim, block_size).permute(0, 3, 1, 2)
    values = memory[:, size : 2 * size].view(dtype).view(blocks, heads, block_size, head_dim).transpose(1, 2)
    if not has_scales(dtype):
        return LayerCache(keys, values)
    scales = memory[:, 2 * size :].view(SCALE).view(blocks, 2, heads, block_size).transpose(2, 3)
    return LayerCache(keys, values, scales[:, 0], scales[:, 1])


def _by_layers(
    num_blocks: int, shape: CacheShape, block_size: int, dtype: torch.dtype, device: torch.device
) -> list[LayerCache]:
    """A GPU's cache: all keys of a layer, then all its values; the scales are in memory of their own."""
    pairs, heads = (shape.num_layers, 2, num_blocks), shape.num_kv_heads
    numbers = torch.zeros(
        (*pairs, block_size, heads, shape.head_dim * dtype.itemsize), dtype=torch.uint8, device=device
    ).view(dtype)
    if not has_scales(dtype):
        return [LayerCache(keys, values) for keys, values in numbers]
    scales = torch.zeros((*pairs, heads, block_size), dtype=SCALE, device=device).transpose(-1, -2)
    return [LayerCache(*both, *theirs) for both, theirs in zip(numbers, scales, strict=True)]


def block_bytes(shape: CacheShape, block_size: int, dtype: torch.dtype) -> int:
    """Of one block over all layers, keys and values together, with their scales."""
    head = shape.head_dim * dtype.itemsize + (SCALE.itemsize if has_scales(dtype) else 0)
    return shape.num_layers * 2 * block_size * shape.num_kv_heads * head


def choose_dtype(wanted: KVCacheDType, weights: torch.dtype, activations: torch.dtype) -> torch.dtype:
    """What a cache holds where ``--kv-cache-dtype`` is ``wanted``. Raises ConfigurationError where it cannot."""
    if wanted == "auto":
        return weights
    dtype, allowed = DTYPES[wanted], cache_dtypes(activations)
    if dtype not in allowed:
        names = ", ".join(name for name, each in DTYPES.items() if each in allowed)
        computed = str(activations).removeprefix("torch.")
        raise ConfigurationError(
            f"--kv-cache-dtype {wanted}: beside activations in {computed} the cache may be in {names}"
        )
    return dtype
