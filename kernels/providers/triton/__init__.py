"""Kernels in Triton for a GPU, NVIDIA's or AMD's. ``device/`` holds what is compiled, the modules beside it launch it.

A module here imports anywhere; those in ``device/`` import Triton, and are imported when a provider is loaded.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

from kernels.registry import Machine


@functools.cache
def available() -> bool:
    return importlib.util.find_spec("triton") is not None


def supported(machine: Machine) -> bool:
    """By every provider of this package."""
    return machine.device == "cuda" and available()


def on_amd() -> bool:
    """Whether the GPU is AMD's: its tiles are others, and a torch is made for either."""
    return torch.version.hip is not None


def interpreted() -> bool:
    """Whether Triton runs its functions in Python, which tests do on a machine without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"
