"""Rotary embedding and cache write by ``native/rope.c``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.kv_formats import FP8, SCALE, has_scales
from kernels.ops.rope_and_cache import RopeAndCache, RopeAndCacheSpec
from kernels.providers.cpu.library import DTYPES, Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider

CACHE_DTYPES = {**DTYPES, torch.int8: 3, FP8: 5}
"""The kernels' numbers of the dtypes of caches, as in ``native/numbers.h``."""


class Cache(ctypes.Structure):
    """Keys or values: where they are, and the strides of block, offset, head and dimension."""

    _fields_ = [("memory", ctypes.c_void_p), ("strides", ctypes.c_int64 * 4)]

    @classmethod
    def of(cls, cache: Tensor) -> Cache:
        return cls(cache.data_ptr(), (ctypes.c_int64 * 4)(*cache.stride()))


class Scales(ctypes.Structure):
    """Those of keys or values: where they are, and the strides of block, offset and head. Null where there are none."""

    _fields_ = [("memory", ctypes.c_void_p), ("strides", ctypes.c_int64 * 3)]

    @classmethod
    def of(cls, cache: Tensor, scales: Tensor | None) -> Scales:
        if has_scales(cache.dtype) != (scales is not None) or (scales is not None and scales.dtype != SCALE):
            raise ValueError(f"a cache of {cache.dtype} with scales of {scales if scales is None else scales.dtype}")
        return cls() if scales is None else cls(scales.data_ptr(), (ctypes.c_int64 * 3)(*scales.stride()))


class _RopeAndCache(ctypes.Structure):
    _fields_ = [
        ("q", ctypes.c_void_p),
        ("k", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("cos", ctypes.c_void_p),
        ("sin", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("keys", Cache),
        ("values", Cache),
        ("key_scales", Scales),
        ("value_scales", Scales),
        ("strides", ctypes.c_int64 * 6),
        ("heads", ctypes.c_int32),
        ("kv_heads", ctypes.c_int32),
        ("head_dim", ctypes.c_int32),
        ("block_size", ctypes.c_int32),
        ("cache_dtype", ctypes.c_int32),
    ]


class NativeRopeAndCache:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernel = library.kernel("rope_and_cache")

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        positions: Tensor,
        cos: Tensor,
        sin: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        slot_mapping: Tensor,
        k_scales: Tensor | None = None,
        v_scales: Tensor | None = None,
    ) -> Tensor:
        tensors = (q, k, v, positions, cos, sin, k_cache, v_cache, slot_mapping)
        if any(tensor.dtype != torch.float32 for tensor in (q, k, v, cos, sin)):
            raise ValueError("q, k, v, cos and sin are float32")
        if positions.dtype != torch.int64 or slot_mapping.dtype != torch.int64:
            raise ValueError("positions and slots are int64")
        if any(tensor.stride(-1) != 1 for tensor in tensors[:6]) or not (cos.is_contiguous() and sin.is_contiguous()):
            raise ValueError("the last dimension of an input is contiguous, and so are the tables")
        tokens, heads, head_dim = q.shape
        out = self._library.empty((tokens, heads, head_dim))
        arguments = _RopeAndCache(
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            positions.data_ptr(),
            slot_mapping.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            out.data_ptr(),
            Cache.of(k_cache),
            Cache.of(v_cache),
            Scales.of(k_cache, k_scales),
            Scales.of(v_cache, v_scales),
            (ctypes.c_int64 * 6)(*q.stride()[:2], *k.stride()[:2], *v.stride()[:2]),
            heads,
            k.shape[1],
            head_dim,
            k_cache.shape[1],
            CACHE_DTYPES[k_cache.dtype],
        )
        scales = [each for each in (k_scales, v_scales) if each is not None]
        self._library.launch(self._kernel, arguments, (*tensors, *scales, out), tokens)
        return out


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: RopeAndCacheSpec) -> bool:
    return spec.dtype == torch.float32 and spec.cache_dtype in CACHE_DTYPES


PROVIDER: Provider[RopeAndCache, RopeAndCacheSpec] = Provider(
    name="cpu",
    version="1",
    priority=20,
    supported=_supported,
    accepts=_accepts,
    load=lambda: NativeRopeAndCache(load()),
)
