"""transformers' ``generate`` with a left-padded batch: ``generate_worker.py MODEL CACHE_GIB`` (no cache to size).

A job's requests form batches of ``concurrency``; a batch's answers end together.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
import worker  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

model: Any = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="sdpa")
model.eval()


class Stamps(StoppingCriteria):
    """Never stops; keeps the time at which each token was chosen."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


@torch.inference_mode()
def batch(requests: list[dict[str, Any]], sent: float) -> list[dict[str, Any]]:
    longest = max(len(request["ids"]) for request in requests)
    padding = [longest - len(request["ids"]) for request in requests]
    ids = torch.tensor([[0] * pad + request["ids"] for pad, request in zip(padding, requests, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
    count = max(request["tokens"] for request in requests)
    stamps = Stamps()
    model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=count,
        min_new_tokens=count,
        do_sample=False,
        stopping_criteria=StoppingCriteriaList([stamps]),
    )
    ended = time.perf_counter()
    return [worker.course(sent, stamps.times[: request["tokens"]], ended, len(request["ids"])) for request in requests]


def run(job: dict[str, Any]) -> dict[str, Any]:
    requests, size = job["streams"], job["concurrency"]
    sent = time.perf_counter()
    courses = [course for at in range(0, len(requests), size) for course in batch(requests[at : at + size], sent)]
    return {"streams": courses, "late": []}


worker.serve(run)
