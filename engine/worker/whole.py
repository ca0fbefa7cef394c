"""The whole model, without memory for its weights: what a rank that holds a part of it must know of the rest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace

import torch

from engine.layers.base import LayerContext
from engine.models import build_model
from engine.models.base import Model
from engine.models.hf_config import HFConfig
from engine.parallel import ALONE, Parallel
from kernels.registry import REFERENCE, Kernels


@dataclass(frozen=True)
class Whole:
    model: Model
    """The rank's own where that is all of it; else nothing can be computed with it."""
    kernels: Kernels
    """The choices that one rank would make for it."""

    @classmethod
    def of(cls, model: Model, config: HFConfig, context: LayerContext, threads: int) -> Whole:
        """``model`` was built from ``config`` in ``context``; ``threads`` are those of all ranks together."""
        if context.parallel.ranks == 1:
            return cls(model, context.kernels)
        kernels = Kernels(replace(context.kernels.machine, threads=threads))
        surroundings = replace(context, kernels=kernels, device=torch.device("meta"), parallel=ALONE)
        whole = build_model(config, surroundings)
        return cls(whole, kernels)

    def fingerprint(self, kernels: Kernels, parallel: Parallel, *others: str) -> str:
        """Numerics fingerprint of a rank that computes with ``kernels``; ``others``: config, dtype and weights.

        It is the one of a single rank, unless parts are computed in another order than the whole: where partial sums
        are added, where torch computes (its libraries choose an order by size), or where a part's shape has another
        provider.
        """
        self.kernels.add_others(kernels)
        chosen, whole = kernels.chosen, self.kernels.chosen
        parts = [self.kernels.fingerprint(), *others]
        differs = any(REFERENCE in names.split("+") or names != whole[op] for op, names in chosen.items())
        if parallel.ranks > 1 and (differs or parallel.reduces):
            parts.append(f"{parallel.tensor_size} x {parallel.stages} {parallel.reduces}")
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
