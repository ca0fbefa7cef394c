"""Quantization of weights by ``native/quantize.c``."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from kernels.ops.linear import GROUP, Int4Weight, Int8Weight
from kernels.ops.quantize import Quantize, QuantizedFormat, QuantizeSpec
from kernels.providers.cpu.library import DTYPES, Library
from kernels.providers.cpu.loader import available, load
from kernels.registry import Machine, Provider


class _Quantize(ctypes.Structure):
    _fields_ = [
        ("weight", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int32),
        ("dtype", ctypes.c_int32),
    ]


class NativeQuantize:
    def __init__(self, library: Library) -> None:
        self._library = library
        self._kernels = {form: library.kernel(f"quantize_{form}") for form in ("int8", "int4")}

    def __call__(self, weight: Tensor, form: QuantizedFormat) -> Int8Weight | Int4Weight:
        rows, columns = weight.shape
        if not weight.is_contiguous() or (form == "int4" and columns % GROUP):
            raise ValueError(f"{form} of {tuple(weight.shape)}, strides {weight.stride()}: not what is quantized")
        values = torch.empty(rows, columns, dtype=torch.int8)
        scales = torch.empty(rows) if form == "int8" else torch.empty(rows, columns // GROUP, dtype=torch.float16)
        arguments = _Quantize(
            weight.data_ptr(), values.data_ptr(), scales.data_ptr(), rows, columns, DTYPES[weight.dtype]
        )
        self._library.launch(self._kernels[form], arguments, (weight, values, scales), 1)
        return Int8Weight(values, scales) if form == "int8" else Int4Weight(values, scales)


def _supported(machine: Machine) -> bool:
    return machine.device == "cpu" and available()


def _accepts(spec: QuantizeSpec) -> bool:
    return spec.dtype in DTYPES


PROVIDER: Provider[Quantize, QuantizeSpec] = Provider(
    name="cpu", version="1", priority=20, supported=_supported, accepts=_accepts, load=lambda: NativeQuantize(load())
)
