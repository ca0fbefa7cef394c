"""Linear layers by ``device/linear.py``: here with weights in int8 and int4, which PyTorch has no product for."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.ops.linear import GROUP, Int4Weight, Int8Weight, Linear, LinearSpec, Weight
from kernels.providers.triton import interpreted, on_amd, supported
from kernels.registry import Provider

DENSE, INT8, INT4 = 0, 1, 2
SPLIT = 512
"""Inputs that are summed from nothing. It depends on no number of rows."""
ROWS = 64
BLOCK = 512
"""Columns that a program adds the splits of."""


@dataclass(frozen=True, slots=True)
class Packed:
    weight: Tensor
    """[N, K]; int4 [N, K / 2] int8, see ``device/linear.py``."""
    scales: Tensor | None
    """int8 [N] float32; int4 [K / GROUP, N] float16."""
    bias: Tensor | None
    columns: int
    inputs: int
    form: int


class TritonLinear:
    """The tiling follows from the dtype alone: a row has the same bits in any company."""

    def __init__(self) -> None:
        from kernels.providers.triton.device import linear

        self._device = linear

    def pack(self, weight: Weight, bias: Tensor | None) -> Packed:
        if isinstance(weight, Int8Weight):
            columns, inputs = weight.values.shape
            return Packed(weight.values.contiguous(), weight.scales, bias, columns, inputs, INT8)
        if isinstance(weight, Int4Weight):
            columns, inputs = weight.values.shape
            low, high = weight.values.reshape(columns, -1, 2, GROUP // 2).unbind(2)
            pairs = ((low & 15) | (high << 4)).flatten(1)
            return Packed(pairs, weight.scales.T.contiguous(), bias, columns, inputs, INT4)
        return Packed(weight.contiguous(), None, bias, weight.shape[0], weight.shape[1], DENSE)

    def __call__(self, x: Tensor, handle: Packed) -> Tensor:
        if x.shape[1] != handle.inputs or x.stride(1) != 1:
            raise ValueError(f"x of shape {tuple(x.shape)} and strides {x.stride()}; {handle.inputs} columns fit")
        rows, columns, inputs = len(x), handle.columns, handle.inputs
        out = torch.empty(rows, columns, dtype=x.dtype, device=x.device)
        options = _tiling(x.dtype, handle.form, inputs)
        weight, form = handle.weight, handle.form
        scales = weight if handle.scales is None else handle.scales
        bias = weight if handle.bias is None else handle.bias
        splits, across = -(-inputs // SPLIT), -(-columns // options["COLUMNS"])
        added = {"FORMAT": form, "HAS_BIAS": handle.bias is not None}
        if rows <= options["ROWS"] and splits > 1:
            parts = torch.empty(splits, rows, columns, dtype=torch.float32, device=x.device)
            self._device.multiply_split[(across, splits)](
                x, weight, scales, parts, x.stride(0), weight.stride(0), rows, columns, inputs, FORMAT=form, **options
            )
            self._device.add_splits[(rows, -(-columns // BLOCK))](
                parts, scales, bias, out, out.stride(0), rows, columns, splits, BLOCK=BLOCK, enable_fp_fusion=False,
                **added,
            )  # fmt: skip
            return out
        tiles = -(-rows // options["ROWS"]) * across
        self._device.multiply[(min(tiles, _programs(x.device)),)](
            x, weight, scales, bias, out, x.stride(0), weight.stride(0), out.stride(0), rows, columns, inputs,
            **added, **options,
        )  # fmt: skip
        return out

    def rows(self, ids: Tensor, handle: Packed, dtype: torch.dtype) -> Tensor:
        ids = ids.long()
        found = handle.weight[ids]
        if handle.form == DENSE:
            return found.to(dtype)
        assert handle.scales is not None, "a quantized weight has scales"
        if handle.form == INT8:
            return (found.float() * handle.scales[ids, None]).to(dtype)
        pairs = found.view(len(ids), -1, 1, GROUP // 2)
        values = torch.cat([(pairs << 4) >> 4, pairs >> 4], dim=2).flatten(2).float()
        return (values * handle.scales[:, ids].T.float()[:, :, None]).flatten(1).to(dtype)


def _tiling(dtype: torch.dtype, form: int, inputs: int) -> dict[str, Any]:
    narrow = dtype.itemsize == 2
    at_once = GROUP if form == INT4 or not narrow else 64
    return {
        "EVEN": inputs % at_once == 0,
        "WIDEN": interpreted(),  # Its product of bfloat16 matrices is wrong.
        "SPLIT": SPLIT,
        "ROWS": ROWS if narrow else ROWS // 2,
        "COLUMNS": 128 if narrow else 64,
        "INPUTS": at_once,
        "num_warps": 8 if narrow else 4,
        "num_stages": 2 if on_amd() else 3,
        # What one program does and what two do is to round alike.
        "enable_fp_fusion": False,
    }


@functools.cache
def _programs(device: torch.device) -> int:
    """Of ``multiply``, at most: two to a processor of the GPU."""
    if device.type != "cuda":
        return 4
    return 2 * int(torch.cuda.get_device_properties(device).multi_processor_count)


def _accepts(spec: LinearSpec) -> bool:
    return spec.weights in ("int8", "int4")


PROVIDER: Provider[Linear, LinearSpec] = Provider(
    name="triton", version="1", priority=20, supported=supported, accepts=_accepts, load=TritonLinear
)
