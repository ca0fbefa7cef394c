"""Keys and values of a cache as the kernels in ``device/`` take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kernels.kv_formats import FP8

FORMATS = {FP8: "e4m3", torch.int8: "int8"}
"""Of bytes; other dtypes are floats that Triton knows. e4m3 is not one of them on every GPU: its bytes are read and
written by integer arithmetic, which gives the same numbers on all of them."""


class Held(NamedTuple):
    keys: Tensor
    values: Tensor
    key_scales: Tensor
    """Anything where there are none."""
    value_scales: Tensor
    scale_strides: tuple[int, ...]
    """Of block, slot and head, of both."""
    format: str

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, key_scales: Tensor | None, value_scales: Tensor | None) -> Held:
        form = FORMATS.get(keys.dtype, "")
        if keys.dtype == FP8:
            keys, values = keys.view(torch.int8), values.view(torch.int8)
        if form != "int8":
            return cls(keys, values, keys, values, (0, 0, 0), form)
        if key_scales is None or value_scales is None or key_scales.stride() != value_scales.stride():
            raise ValueError("a cache of int8 has scales, those of keys laid out as those of values")
        return cls(keys, values, key_scales, value_scales, key_scales.stride(), form)
