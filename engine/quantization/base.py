"""Quantizer: what every quantization does, given the format that each kind of matrix is brought into."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from engine.errors import ConfigurationError, ModelError
from engine.layers.base import MatrixKind
from kernels.ops import quantize
from kernels.ops.linear import GROUP, Weight
from kernels.ops.quantize import QuantizedFormat
from kernels.registry import Kernels


class Quantizer:
    """A ``Quantization``. Norms and biases are no matrices and stay as they are."""

    def __init__(self, name: str, formats: Mapping[MatrixKind, QuantizedFormat], kernels: Kernels) -> None:
        self.name, self._formats, self._kernels = name, formats, kernels

    def weight_format(self, kind: MatrixKind) -> QuantizedFormat:
        return self._formats[kind]

    def quantize(self, weight: Tensor, kind: MatrixKind) -> Weight:
        """Raises ConfigurationError or ModelError where the matrix cannot be quantized."""
        form, columns = self._formats[kind], weight.shape[1]
        if form == "int4" and columns % GROUP:
            raise ConfigurationError(
                f"int4 shares a scale among {GROUP} inputs, and {columns} inputs are no multiple of that; "
                "take --quantization int8"
            )
        found = self._kernels.select(quantize.OP, quantize.QuantizeSpec(weight.dtype))(weight, form)
        if not (finite := found.scales.isfinite()).all():
            row = int(finite.view(len(finite), -1).all(1).int().argmin())
            raise ModelError(f"row {row} holds a weight that is not finite, or too large for {form}")
        return found
