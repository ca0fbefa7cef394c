"""Linear layers over packed panels of weights (``native/gemm.c``): float32, 16-bit, int8 and int4."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kernels.memory import untouched
from kernels.ops.linear import GROUP, Int4Weight, Int8Weight, Linear, LinearSpec, Weight
from kernels.providers.cpu.library import DTYPES, Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider

INT8, INT4 = 3, 4
"""Formats beyond the dtypes of tensors, as in ``native/numbers.h``."""


class _Linear(ctypes.Structure):
    _fields_ = [
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("out_stride", ctypes.c_int64),
        ("in_features", ctypes.c_int32),
        ("out_features", ctypes.c_int32),
        ("format", ctypes.c_int32),
    ]


class _Rows(ctypes.Structure):
    _fields_ = [
        ("ids", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("out_stride", ctypes.c_int64),
        ("in_features", ctypes.c_int32),
        ("out_features", ctypes.c_int32),
        ("format", ctypes.c_int32),
    ]


class _Pack(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("group_scales", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("in_features", ctypes.c_int32),
        ("out_features", ctypes.c_int32),
        ("format", ctypes.c_int32),
    ]


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight in panels, and what is added or multiplied for each of its columns, padded to whole panels."""

    weight: Tensor
    scales: Tensor | None
    bias: Tensor | None
    in_features: int
    out_features: int
    format: int

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor in (self.weight, self.scales, self.bias) if tensor is not None)


class PackedLinear:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._multiply, self._gather, self._pack = (library.kernel(name) for name in ("linear", "rows", "pack"))
        self._panel = int(library.function("panel")())

    def pack(self, weight: Weight, bias: Tensor | None) -> Packed:
        values, group_scales, scales = weight, None, None
        if isinstance(weight, Int4Weight):
            values, group_scales = weight.values, weight.scales.contiguous()
        elif isinstance(weight, Int8Weight):
            values, scales = weight.values, self._padded(weight.scales)
        assert isinstance(values, Tensor)
        values = values.contiguous()
        form = INT4 if group_scales is not None else INT8 if scales is not None else DTYPES[values.dtype]
        out_features, in_features = values.shape
        columns = -(-out_features // self._panel) * self._panel
        # Pairs of 16-bit inputs share words (bfloat16): an odd one at the end has a partner of zeros.
        size = columns * (in_features + (form == DTYPES[torch.bfloat16]) * (in_features % 2)) * values.element_size()
        if group_scales is not None:
            size = columns * in_features // 2 + columns * in_features // GROUP * 2
        packed = untouched(size)
        arguments = _Pack(values.data_ptr(), _address(group_scales), packed.data_ptr(), in_features, out_features, form)
        kept = (values, packed) if group_scales is None else (values, packed, group_scales)
        self._library.launch(self._pack, arguments, kept, 1)
        return Packed(packed, scales, None if bias is None else self._padded(bias), in_features, out_features, form)

    def __call__(self, x: Tensor, handle: Packed) -> Tensor:
        if x.shape[1] != handle.in_features or x.stride(1) != 1:
            raise ValueError(f"x of shape {tuple(x.shape)} and strides {x.stride()}; {handle.in_features} columns fit")
        out = self._library.empty((x.shape[0], handle.out_features))
        arguments = _Linear(
            x.data_ptr(),
            out.data_ptr(),
            handle.weight.data_ptr(),
            _address(handle.scales),
            _address(handle.bias),
            x.stride(0),
            handle.out_features,
            handle.in_features,
            handle.out_features,
            handle.format,
        )
        self._library.launch(self._multiply, arguments, (x, out, *handle.tensors), x.shape[0])
        return out

    def rows(self, ids: Tensor, handle: Packed, dtype: torch.dtype) -> Tensor:
        if dtype != torch.float32 or ids.dtype != torch.int32:
            raise ValueError(f"rows of {ids.dtype} ids in {dtype}: int32 and float32 are what there is")
        out = self._library.empty((ids.shape[0], handle.in_features))
        arguments = _Rows(
            ids.data_ptr(),
            out.data_ptr(),
            handle.weight.data_ptr(),
            _address(handle.scales),
            handle.in_features,
            handle.in_features,
            handle.out_features,
            handle.format,
        )
        self._library.launch(self._gather, arguments, (ids, out, *handle.tensors), ids.shape[0])
        return out

    def _padded(self, columns: Tensor) -> Tensor:
        return functional.pad(columns.float(), (0, -len(columns) % self._panel))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: LinearSpec) -> bool:
    return spec.dtype == torch.float32


PROVIDER: Provider[Linear, LinearSpec] = Provider(
    name="cpu", version="1", priority=20, supported=_supported, accepts=_accepts, load=lambda: PackedLinear(load())
)
