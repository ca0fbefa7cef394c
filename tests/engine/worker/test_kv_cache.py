"""The cache's shape is one thing everywhere; on a CPU its memory has an order of its own."""

import os
import sys
from pathlib import Path

import pytest
import torch

from engine.errors import ConfigurationError
from engine.models.base import CacheShape
from engine.worker.kv_cache import KVCache, block_bytes, choose_dtype
from kernels.kv_formats import FP8, as_bytes
from kernels.memory import AHEAD, PIECE

SHAPE, BLOCKS, BLOCK_SIZE = CacheShape(num_layers=3, num_kv_heads=2, head_dim=8), 5, 4


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, FP8, torch.int8])
def test_every_layer_has_keys_values_and_where_the_dtype_has_them_scales(dtype, device):
    cache = KVCache(SHAPE, BLOCKS, BLOCK_SIZE, dtype, torch.device(device))
    assert len(cache.layers) == 3
    for layer in cache.layers:
        for numbers in (layer.keys, layer.values):
            assert (tuple(numbers.shape), numbers.dtype) == ((BLOCKS, BLOCK_SIZE, 2, 8), dtype)
        for scales in (layer.key_scales, layer.value_scales):
            if dtype == torch.int8:
                assert (tuple(scales.shape), scales.dtype) == ((BLOCKS, BLOCK_SIZE, 2), torch.float32)
            else:
                assert scales is None
    nbytes = sum(tensor.nbytes for layer in cache.layers for tensor in layer if tensor is not None)
    assert nbytes == BLOCKS * block_bytes(SHAPE, BLOCK_SIZE, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, FP8, torch.int8])
def test_every_number_of_every_layer_has_a_place_of_its_own(dtype):
    cache = KVCache(SHAPE, BLOCKS, BLOCK_SIZE, dtype, torch.device("cpu"))
    tensors = [as_bytes(tensor) for layer in cache.layers for tensor in layer if tensor is not None]
    for number, tensor in enumerate(tensors):
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) % 100 + number)
    for number, tensor in enumerate(tensors):
        assert torch.equal(tensor.long(), torch.arange(tensor.numel()).view(tensor.shape) % 100 + number)


def test_on_a_cpu_the_keys_of_a_dimension_and_the_dimensions_of_a_value_are_neighbours():
    cache = KVCache(SHAPE, BLOCKS, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    for keys, values, *_ in cache.layers:
        assert keys[0].permute(1, 2, 0).is_contiguous()
        assert values[0].transpose(0, 1).is_contiguous()


def test_on_a_cpu_a_block_is_one_stretch_of_memory():
    cache = KVCache(SHAPE, BLOCKS, BLOCK_SIZE, torch.int8, torch.device("cpu"))
    size = block_bytes(SHAPE, BLOCK_SIZE, torch.int8)
    begin = cache.layers[0].keys.data_ptr()
    for tensor in (tensor for layer in cache.layers for tensor in layer if tensor is not None):
        for block in range(BLOCKS):
            assert begin + block * size <= tensor[block].data_ptr() < begin + (block + 1) * size


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="pages are asked for on Linux alone")
def test_idle_time_provides_memory_some_way_beyond_what_is_in_use():
    size = block_bytes(SHAPE, BLOCK_SIZE, torch.float32)
    before = resident()
    cache = KVCache(SHAPE, 2 * AHEAD // size, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    others = 16 * PIECE  # what else the process takes or gives back meanwhile
    assert resident() - before < others
    pieces = 0
    while cache.use_idle_time():
        pieces += 1
    assert pieces == AHEAD // PIECE
    assert AHEAD - others < resident() - before < AHEAD + others
    cache.reach(8 * PIECE // size)
    pieces = 0
    while cache.use_idle_time():
        pieces += 1
    assert pieces in (8, 9)


def test_a_small_cache_is_provided_whole_and_holds_what_was_written():
    cache = KVCache(SHAPE, BLOCKS, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    for keys, values, *_ in cache.layers:
        keys.fill_(3.0)
        values.fill_(4.0)
    while cache.use_idle_time():
        pass
    assert all((keys == 3.0).all() and (values == 4.0).all() for keys, values, *_ in cache.layers)


def test_what_it_holds_is_chosen_by_name():
    for wanted, expected in [("auto", torch.bfloat16), ("float32", torch.float32), ("fp8", FP8), ("int8", torch.int8)]:
        assert choose_dtype(wanted, torch.bfloat16, torch.float32) == expected
    with pytest.raises(ConfigurationError, match=r"^--kv-cache-dtype float16: .* bfloat16 .* in bfloat16, fp8, int8$"):
        choose_dtype("float16", torch.bfloat16, torch.bfloat16)
