"""OpenVINO GenAI's continuous batching, driven step by step: ``openvino_worker.py MODEL CACHE_GIB [CACHE_TYPE]``.

Without ``CACHE_TYPE`` the cache holds what is OpenVINO's default on a processor, which is 8 bits.

Tokens are stamped when the step that made them returns, so no HTTP and no detokenizing is in its figures.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import openvino as ov  # type: ignore[import-not-found]
import openvino_genai as genai  # type: ignore[import-not-found]
import worker  # type: ignore[import-not-found]

model, cache_gib = sys.argv[1], int(sys.argv[2])
scheduler = genai.SchedulerConfig()
scheduler.cache_size = cache_gib
scheduler.enable_prefix_caching = True
scheduler.max_num_batched_tokens = 512
properties = {"INFERENCE_PRECISION_HINT": "f32"}
if len(sys.argv) > 3:
    properties["KV_CACHE_PRECISION"] = sys.argv[3]
pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", properties)
next_id = 0


class Running:
    """One request that is under way."""

    def __init__(self, request: dict[str, Any]) -> None:
        global next_id
        next_id += 1
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = request["tokens"]
        config.ignore_eos = True
        self.request = request
        self.sent = time.perf_counter()
        self.chunks: list[float] = []
        ids = ov.Tensor(np.array([request["ids"]], dtype=np.int64))
        self.handle = pipeline.add_request(next_id, ids, config)

    def collect(self, now: float) -> bool:
        """Take the new tokens. Returns whether the request has ended."""
        if self.handle.can_read():
            for output in self.handle.read().values():
                self.chunks += [now] * len(output.generated_ids)
        return bool(self.handle.get_status() != genai.GenerationStatus.RUNNING)

    def course(self, now: float) -> dict[str, Any]:
        return dict(worker.course(self.sent, self.chunks, now, len(self.request["ids"])))


def run(job: dict[str, Any]) -> dict[str, Any]:
    waiting, late, every = list(job["streams"]), list(job["late"]), job["every"]
    streams: list[Running] = []
    intruders: list[Running] = []
    live: list[Running] = []
    courses: dict[int, dict[str, Any]] = {}
    begun, sent_late = None, 0
    while waiting or live or sent_late < len(late):
        while waiting and sum(one in streams for one in live) < job["concurrency"]:
            streams.append(Running(waiting.pop(0)))
            live.append(streams[-1])
        now = time.perf_counter()
        if begun is None and not waiting and all(one.chunks for one in streams):
            begun = now
        while begun is not None and sent_late < len(late) and now >= begun + sent_late * every:
            intruders.append(Running(late[sent_late]))
            live.append(intruders[-1])
            sent_late += 1
        if not live:
            time.sleep(0.001)
            continue
        pipeline.step()
        now = time.perf_counter()
        for one in list(live):
            if one.collect(now):
                courses[id(one)] = one.course(now)
                live.remove(one)
    return {"streams": [courses[id(one)] for one in streams], "late": [courses[id(one)] for one in intruders]}


worker.serve(run)
