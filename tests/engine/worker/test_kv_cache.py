"""The cache's shape is one thing everywhere; on a CPU its memory has an order of its own."""

import os
import sys
from pathlib import Path

import pytest
import torch

from engine.models.base import CacheShape
from engine.worker.kv_cache import KVCache, block_bytes
from kernels.memory import AHEAD, PIECE

SHAPE, BLOCKS, BLOCK_SIZE = CacheShape(num_layers=3, num_kv_heads=2, head_dim=8), 5, 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_of_every_layer_has_a_place_of_its_own(dtype):
    cache = KVCache(SHAPE, BLOCKS, BLOCK_SIZE, dtype, torch.device("cpu"))
    tensors = [tensor for layer in cache.layers for tensor in layer]
    assert [tuple(tensor.shape) for tensor in tensors] == [(BLOCKS, BLOCK_SIZE, 2, 8)] * 6
    for number, tensor in enumerate(tensors):
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) % 100 + number)
    for number, tensor in enumerate(tensors):
        assert torch.equal(tensor.long(), torch.arange(tensor.numel()).view(tensor.shape) % 100 + number)
    assert sum(tensor.nbytes for tensor in tensors) == BLOCKS * block_bytes(SHAPE, BLOCK_SIZE, dtype)


def test_on_a_cpu_the_keys_of_a_dimension_and_the_dimensions_of_a_value_are_neighbours():
    cache = KVCache(SHAPE, BLOCKS, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    for keys, values in cache.layers:
        assert keys[0].permute(1, 2, 0).is_contiguous()
        assert values[0].transpose(0, 1).is_contiguous()


def test_on_a_cpu_a_block_is_one_stretch_of_memory():
    cache = KVCache(SHAPE, BLOCKS, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    size = block_bytes(SHAPE, BLOCK_SIZE, torch.float32)
    begin = cache.layers[0][0].data_ptr()
    for tensor in (tensor for layer in cache.layers for tensor in layer):
        for block in range(BLOCKS):
            assert begin + block * size <= tensor[block].data_ptr() < begin + (block + 1) * size


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="pages are asked for on Linux alone")
def test_idle_time_provides_memory_some_way_beyond_what_is_in_use():
    size = block_bytes(SHAPE, BLOCK_SIZE, torch.float32)
    before = resident()
    cache = KVCache(SHAPE, 2 * AHEAD // size, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    assert resident() - before < PIECE
    pieces = 0
    while cache.use_idle_time():
        pieces += 1
    assert pieces == AHEAD // PIECE
    assert AHEAD - PIECE < resident() - before < AHEAD + 16 * PIECE
    cache.reach(8 * PIECE // size)
    pieces = 0
    while cache.use_idle_time():
        pieces += 1
    assert pieces in (8, 9)


def test_a_small_cache_is_provided_whole_and_holds_what_was_written():
    cache = KVCache(SHAPE, BLOCKS, BLOCK_SIZE, torch.float32, torch.device("cpu"))
    for keys, values in cache.layers:
        keys.fill_(3.0)
        values.fill_(4.0)
    while cache.use_idle_time():
        pass
    assert all((keys == 3.0).all() and (values == 4.0).all() for keys, values in cache.layers)
