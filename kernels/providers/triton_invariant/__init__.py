"""Where a GPU is asked to be deterministic: kernels whose rows have the same bits in any company, at some cost.

They take the place of faster ones. The ops that are missing here are so by the kernels that they have anyway.
"""

from __future__ import annotations

from kernels.providers import triton
from kernels.registry import Machine


def supported(machine: Machine) -> bool:
    """By every provider of this package."""
    return machine.deterministic and triton.supported(machine)
