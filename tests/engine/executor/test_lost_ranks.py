"""Rank processes that are really killed, stopped or wrong: the engine learns of it, why, and nothing is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import patience
from engine.errors import ConfigurationError, ModelError, RankError
from engine.messages import Start
from engine.sampling_params import SamplingParams

pytestmark = pytest.mark.slow

NOTICED = 2.0
"""Seconds."""


@pytest.fixture
def folder(make_checkpoint) -> Path:
    return make_checkpoint("LlamaForCausalLM")


@pytest.fixture
def nothing_is_left():
    """No process, descriptor or shared memory more than before."""

    def held() -> list[set[Path]]:
        return [set(Path(folder).iterdir()) for folder in ("/proc/self/fd", "/dev/shm")]

    before = held()
    pids: list[int] = []
    yield pids
    assert pids and not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert held() == before


def generate(ranks, tokens: int = 400, streams: int = 1, prompt: int = 40) -> None:
    """For as long as the model can go on."""
    from engine.engine import Engine

    engine = Engine(ranks.config, ranks.executor, ranks.facts, 100)
    params = SamplingParams(max_tokens=tokens)
    for number in range(streams):
        engine.start(Start(id=str(number), attempt=0, prompt=[5 + number] * prompt, params=params, seed=0))
    while engine.is_busy:
        engine.step()


def do_later(seconds: float, action) -> list[float]:
    """When it was done."""
    done: list[float] = []

    def act() -> None:
        done.append(time.monotonic())
        action()

    threading.Timer(seconds, act).start()
    return done


@pytest.mark.parametrize("victim", [0, 3])
def test_a_rank_that_is_killed_in_mid_generation(run_ranks, folder, nothing_is_left, victim):
    with run_ranks(tensor_parallel_size=2, pipeline_parallel_size=2) as ranks:
        ranks.load(folder)
        nothing_is_left += ranks.executor.pids
        killed = do_later(0.3, lambda: os.kill(nothing_is_left[victim], signal.SIGKILL))
        with pytest.raises(RankError) as caught:
            while True:
                generate(ranks)
        assert time.monotonic() - killed[0] < NOTICED
        assert str(caught.value) == f"rank {victim} (process {nothing_is_left[victim]}) was killed by SIGKILL"
        assert not [pid for pid in nothing_is_left if Path(f"/proc/{pid}").exists()], "the others are of no use"


def test_ranks_that_die_while_nothing_is_computed_and_that_are_stuck(run_ranks, folder, nothing_is_left, monkeypatch):
    with run_ranks(tensor_parallel_size=2) as ranks:
        ranks.load(folder)
        nothing_is_left += ranks.executor.pids
        generate(ranks, 5)
        ranks.executor.check()
        os.kill(nothing_is_left[1], signal.SIGTERM)
        ranks.executor.check()  # A service manager's SIGTERM is the gateway's affair.
        monkeypatch.setattr(patience, "LEAST", 1.5)
        stopped = do_later(0.3, lambda: os.kill(nothing_is_left[1], signal.SIGSTOP))
        with pytest.raises(RankError, match="the ranks are stuck in a step, which was predicted to take"):
            while True:
                generate(ranks)
        assert 1.0 < time.monotonic() - stopped[0] < 1.5 + NOTICED

    with run_ranks(tensor_parallel_size=2) as ranks:
        ranks.load(folder)
        nothing_is_left += (pids := ranks.executor.pids)
        os.kill(pids[0], signal.SIGKILL)
        time.sleep(0.2)
        with pytest.raises(RankError, match=r"rank 0 .* was killed by SIGKILL"):
            ranks.executor.check()


def test_a_fault_in_a_rank_is_told_with_its_trace(run_ranks, folder, tmp_path, nothing_is_left, caplog):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with run_ranks(pipeline_parallel_size=2) as ranks:
        ranks.load(tmp_path)
        nothing_is_left += ranks.executor.pids
        with pytest.raises(RankError, match="rank 1: InvalidLogitsError: the logits of all 2 rows"):
            generate(ranks, streams=4, prompt=2)
    assert "Traceback" in caplog.text and "in finish" in caplog.text


@pytest.mark.parametrize(
    ("config", "model", "error", "message"),
    [
        (
            {"tensor_parallel_size": 3},
            None,
            ConfigurationError,
            "the model's 4 attention heads cannot be shared evenly",
        ),
        ({"tensor_parallel_size": 2}, "/nowhere", ModelError, "/nowhere holds no config.json"),
        ({"pipeline_parallel_size": 2, "kv_cache_memory": 1}, None, ConfigurationError, "raise --kv-cache-memory"),
    ],
)
def test_a_mistake_that_ranks_find_is_the_engines(run_ranks, folder, nothing_is_left, config, model, error, message):
    with run_ranks(**config) as ranks:
        nothing_is_left += ranks.executor.pids
        with pytest.raises(error, match=message):
            ranks.load(Path(model or folder))


def test_one_process_is_not_several_ranks(run_ranks):
    with (
        pytest.raises(ConfigurationError, match="--executor uniproc has one rank, and 2 are asked for"),
        run_ranks(executor="uniproc", tensor_parallel_size=2),
    ):
        pass
