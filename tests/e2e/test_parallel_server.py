"""Ranks behind the gateway: the openai client gets what a single rank answers, and a killed rank is a pause."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

TOKENS = 120


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stream(server: Any, on_token: Any = lambda count: None) -> tuple[str, list[float]]:
    text, logprobs = "", []
    with server.client() as client:
        chunks = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "Count from 3 to 90."}],
            max_tokens=TOKENS,
            temperature=0.8,
            seed=7,
            logprobs=True,
            stream=True,
            extra_body={"ignore_eos": True, "min_tokens": TOKENS},
        )
        for chunk in chunks:
            for choice in chunk.choices:
                text += choice.delta.content or ""
                if choice.logprobs:
                    logprobs += [token.logprob for token in choice.logprobs.content]
                    on_token(len(logprobs))
    return text, logprobs


def test_ranks_answer_as_one_a_killed_rank_is_a_pause_and_a_killed_engine_leaves_none(
    start_server: Any, server: Any
) -> None:
    expected = stream(server)
    with start_server("--dtype", "float32", "--max-num-seqs", "64", "-tp", "2", "-pp", "2") as parallel:
        assert stream(parallel) == expected
        (engine,) = parallel.engine_pids()
        ranks = children(engine)
        assert len(ranks) == 4
        killed: list[float] = []

        def kill_once(count: int) -> None:
            if count >= TOKENS // 4 and not killed:
                killed.append(time.monotonic())
                os.kill(ranks[1], signal.SIGKILL)
                while any(Path(f"/proc/{pid}").exists() for pid in (engine, *ranks)):
                    assert time.monotonic() - killed[0] < 30, "the engine outlives its rank"
                    time.sleep(0.01)

        assert stream(parallel, kill_once) == expected
        assert parallel.metric("penstock_engine_restarts_total") == 1
        assert f"rank 1 (process {ranks[1]}) was killed by SIGKILL; restarting" in parallel.log.read_text()
        (engine,) = parallel.engine_pids()
        ranks = children(engine)
        os.kill(engine, signal.SIGKILL)
        ended = time.monotonic()
        while any(Path(f"/proc/{pid}").exists() for pid in ranks):
            assert time.monotonic() - ended < 30, "ranks outlive their engine"
            time.sleep(0.01)
