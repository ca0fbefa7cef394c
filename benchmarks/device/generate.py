"""transformers' ``generate`` with the same shape, for comparison."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.device.limits import synchronize
from benchmarks.device.shapes import Shape


class Generate:
    def __init__(self, shape: Shape, device: torch.device) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        fields = shape.config()
        config: Any = AutoConfig.for_model(fields.pop("model_type"), **fields)
        auto: Any = AutoModelForCausalLM
        with torch.device(device):
            self._model = auto.from_config(config, dtype=torch.bfloat16).eval()
        self._device, self._vocabulary = device, shape.vocabulary

    def tokens_per_second(self, streams: int, prompt: int, output: int) -> float:
        """Of output, prompts included in the time; a short run before it is not counted."""
        ids = torch.randint(10, self._vocabulary, (streams, prompt), device=self._device)
        settings = {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            for length in (2, output):
                synchronize(self._device)
                began = time.perf_counter()
                found = self._model.generate(ids, max_new_tokens=length, min_new_tokens=length, **settings)
                synchronize(self._device)
        assert found.shape[1] == prompt + output
        return streams * output / (time.perf_counter() - began)
