"""Rotary position embeddings and their scaling variants, as transformers' ``modeling_rope_utils.py`` defines them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn"]


@dataclass(frozen=True)
class RopeConfig:
    """One model's rotary embedding. Fields that a type does not use keep their defaults."""

    rope_type: RopeType
    theta: float
    head_dim: int
    max_position_embeddings: int
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    """llama3 and yarn."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    """llama3."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    """yarn."""

    @property
    def max_model_len(self) -> int:
        """Greatest context the embedding is meant for, in tokens."""
        if self.rope_type == "dynamic":
            return int(self.max_position_embeddings * self.factor)
        if self.rope_type == "yarn":
            return max(self.max_position_embeddings, int(self.original_max_position_embeddings * self.factor))
        return self.max_position_embeddings


class Rotary:
    """Tables of every position up to ``length``, made once for all layers."""

    def __init__(self, config: RopeConfig, length: int, device: torch.device) -> None:
        angles, scale = rotary_angles(config, length)
        self.tables: tuple[Tensor, Tensor] = ((angles.cos() * scale).to(device), (angles.sin() * scale).to(device))
        """(cos, sin), each [length, D/2] float32."""


def rotary_angles(config: RopeConfig, length: int) -> tuple[Tensor, float]:
    """Angles [length, D/2] float32, and the factor on their cosines and sines."""
    positions = torch.arange(length, dtype=torch.float32)[:, None]
    if config.rope_type == "dynamic":
        return positions * _dynamic_frequencies(config, length), 1.0
    if config.rope_type == "yarn":
        frequencies, scale = _yarn_frequencies(config)
        return positions * frequencies, scale
    frequencies = _frequencies(config.theta, config.head_dim)
    if config.rope_type == "linear":
        frequencies = frequencies / config.factor
    elif config.rope_type == "llama3":
        frequencies = _llama3_frequencies(config, frequencies)
    return positions * frequencies, 1.0


def _exponents(dim: int) -> Tensor:
    return torch.arange(0, dim, 2, dtype=torch.int64).float() / dim


def _frequencies(theta: float | Tensor, dim: int) -> Tensor:
    return 1.0 / theta ** _exponents(dim)


def _dynamic_frequencies(config: RopeConfig, length: int) -> Tensor:
    """[length, D/2]: NTK scaling, in which the base grows with the sequence once it is past the trained length.

    transformers takes the base from the longest sequence it has seen in a call. Here position p takes the base of a
    sequence of p + 1 tokens, which is what token-by-token generation gives there, and does not depend on how a prompt
    was cut into chunks.
    """
    dim, trained = config.head_dim, config.max_position_embeddings
    seen = torch.arange(1, length + 1, dtype=torch.float64).clamp(min=trained)
    growth = (config.factor * seen / trained - (config.factor - 1)) ** (dim / (dim - 2))
    return _frequencies((config.theta * growth).float()[:, None], dim)


def _llama3_frequencies(config: RopeConfig, frequencies: Tensor) -> Tensor:
    """Llama 3.1: long wavelengths are scaled, short ones kept, and those between interpolated."""
    trained = config.original_max_position_embeddings
    wavelengths = 2 * math.pi / frequencies
    smooth = (trained / wavelengths - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    smoothed = (1 - smooth) * frequencies / config.factor + smooth * frequencies
    scaled = torch.where(wavelengths > trained / config.low_freq_factor, frequencies / config.factor, smoothed)
    return torch.where(wavelengths < trained / config.high_freq_factor, frequencies, scaled)


def _yarn_frequencies(config: RopeConfig) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023): frequencies [D/2] and the attention factor."""
    dim, theta, factor = config.head_dim, config.theta, config.factor

    def correction_dim(rotations: float) -> float:
        trained = config.original_max_position_embeddings
        return dim * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = correction_dim(config.beta_fast), correction_dim(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001  # Prevent a division by zero.
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    powers = theta ** _exponents(dim)
    extrapolated, interpolated = 1.0 / powers, 1.0 / (factor * powers)
    kept = 1 - ramp
    return interpolated * (1 - kept) + extrapolated * kept, _yarn_attention_factor(config)


def _yarn_attention_factor(config: RopeConfig) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if config.factor <= 1 else 0.1 * weight * math.log(config.factor) + 1.0

    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        return mscale(config.mscale) / mscale(config.mscale_all_dim)
    return mscale(1.0)
