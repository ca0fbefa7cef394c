"""The engine as a real child process, behind its socket, with a scripted executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import zmq

from engine.config import EngineConfig
from engine.launch import Launch
from engine.messages import (
    Abort,
    Alive,
    Drain,
    Failed,
    FromEngine,
    Heartbeat,
    Loading,
    Ready,
    Rejected,
    Serve,
    Standing,
    Start,
    StepOutput,
    ToEngine,
    decode_from_engine,
    encode,
)
from engine.patience import LEAST
from engine.sampling_params import SamplingParams

ROOT = Path(__file__).parents[3]
MAIN = Path(__file__).parent / "executors" / "main.py"
PATIENCE = 30.0
"""Seconds within which a busy machine answers."""

M = TypeVar("M", bound=FromEngine)


class Child:
    """An engine process and the gateway's end of its socket."""

    def __init__(self, folder: str, *, standby: bool = False, **settings: object) -> None:
        self.socket = zmq.Context.instance().socket(zmq.PAIR)
        self.socket.linger = 0
        endpoint = f"ipc://{folder}/engine"
        self.socket.bind(endpoint)
        self.process = subprocess.Popen(
            [sys.executable, str(MAIN)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        config = EngineConfig(**{"model": "well", "executor": "scripted", "stream_interval": 0.0} | settings)
        launch = Launch(endpoint=endpoint, epoch=3, config=config, standby=standby)
        self.process.stdin.write(msgspec.json.encode(launch) + b"\n")
        self.process.stdin.flush()

    def send(self, message: ToEngine) -> None:
        self.socket.send(encode(message))

    def receive(self, kind: type[M], until: Callable[[M], bool] = lambda message: True) -> M:
        """The next message of a kind for which ``until`` holds; others are passed over."""
        deadline = time.monotonic() + PATIENCE
        while self.socket.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            message = decode_from_engine(self.socket.recv())
            if isinstance(message, kind) and until(message):
                return message
        raise AssertionError(f"no {kind.__name__} came")

    def wait(self) -> tuple[int, str, str]:
        """Exit status, standard output and standard error, once the process has ended by itself."""
        status = self.process.wait(timeout=PATIENCE)
        return status, self.process.stdout.read().decode(), self.process.stderr.read().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()
        self.socket.close()


@pytest.fixture
def spawn() -> Iterator[Callable[..., Child]]:
    children = []
    # Not tmp_path: the name of a Unix socket must be short.
    with tempfile.TemporaryDirectory() as folder:

        def make(model: str = "well", **settings: object) -> Child:
            children.append(Child(folder, model=model, **settings))
            return children[-1]

        yield make
        for child in children:
            child.close()


def start(name: str = "a", max_tokens: int = 3, attempt: int = 0, length: int = 4) -> Start:
    return Start(id=name, attempt=attempt, prompt=[5] * length, params=SamplingParams(max_tokens=max_tokens), seed=1)


def test_start_up_reports_progress_and_facts(spawn) -> None:
    child = spawn(block_size=32, max_model_len=64)
    stages = [child.receive(Loading) for _ in range(5)]
    assert [(s.stage, s.done, s.total, s.unit) for s in stages] == [
        ("imports", 0, 0, ""),
        ("weights", 0, 0, ""),
        ("weights", 1, 2, "tensors"),
        ("cache", 0, 0, ""),
        ("warm-up", 0, 0, ""),
    ]
    info = child.receive(Ready).info
    assert (info.max_model_len, info.block_size, info.num_blocks, info.cache_bytes) == (64, 32, 640, 6400)
    assert (info.parameters, info.eos_token_ids, info.fingerprint) == (7, [2], "f")
    assert list(info.load_seconds) == ["imports", "weights", "cache", "warm-up"]


def test_one_that_stands_by_makes_its_cache_when_it_is_told_to_serve(spawn) -> None:
    child = spawn(standby=True)
    child.receive(Standing)
    child.receive(Heartbeat)
    assert not child.socket.poll(100) or isinstance(decode_from_engine(child.socket.recv()), Heartbeat)
    child.send(Serve())
    assert [child.receive(Loading).stage for _ in range(2)] == ["cache", "warm-up"]
    child.receive(Ready)
    child.send(start())
    child.receive(StepOutput, lambda frame: any(output.finish for output in frame.outputs))


def test_a_choice_from_start_to_finish_is_a_frame_a_step(spawn) -> None:
    child = spawn()
    child.receive(Ready)
    child.send(start())
    frames = [child.receive(StepOutput) for _ in range(3)]
    assert [frame.started for frame in frames] == [["a"], [], []]
    outputs = [output for frame in frames for output in frame.outputs]
    assert [(o.id, o.attempt, o.at, o.ids, o.finish) for o in outputs] == [
        ("a", 0, 0, [4], None),
        ("a", 0, 1, [5], None),
        ("a", 0, 2, [6], "length"),
    ]
    assert [stats.step for frame in frames for stats in frame.stats] == [0, 1, 2]
    heartbeat = child.receive(Heartbeat)
    assert (heartbeat.step, heartbeat.pending) == (3, 0)


def test_tokens_that_come_close_together_share_a_frame(spawn) -> None:
    child = spawn(stream_interval=1.0)
    child.receive(Ready)
    child.send(start(max_tokens=9))
    first, second = child.receive(StepOutput), child.receive(StepOutput)
    assert [(o.at, o.ids, o.finish) for o in first.outputs] == [(0, [4], None)]
    assert [(o.at, o.ids, o.finish) for o in second.outputs] == [(1, list(range(5, 13)), "length")]
    assert [stats.step for frame in (first, second) for stats in frame.stats] == list(range(9))


def test_abort_stops_a_running_choice(spawn) -> None:
    child = spawn(kv_cache_memory=None)
    child.receive(Ready)
    child.send(start(max_tokens=9_000))
    child.send(start("b", max_tokens=10_000))
    child.receive(StepOutput, lambda frame: len(frame.outputs) == 2)
    child.send(Abort(id="a", attempt=0))
    frame = child.receive(StepOutput, lambda frame: [output.id for output in frame.outputs] == ["b"])
    assert frame.stats[-1].state.running == 1
    child.send(Abort(id="b", attempt=0))
    assert child.receive(Heartbeat, lambda beat: beat.pending == 0).step < 9_000


def test_a_higher_attempt_replaces(spawn) -> None:
    child = spawn()
    child.receive(Ready)
    child.send(start(max_tokens=9_000))
    child.receive(StepOutput)
    child.send(start(attempt=1))
    last = child.receive(StepOutput, lambda frame: any(output.finish for output in frame.outputs))
    assert [(output.attempt, output.at) for output in last.outputs] == [(1, 2)]


def test_what_cannot_be_served_is_rejected_and_harms_nobody(spawn) -> None:
    child = spawn()
    child.receive(Ready)
    child.send(start("long", length=10_240))
    child.send(start())
    rejected = child.receive(Rejected)
    assert rejected.id == "long" and "longest context is 10240 tokens" in rejected.message
    child.receive(StepOutput, lambda frame: any(output.finish for output in frame.outputs))


def test_drain_finishes_what_is_pending_and_ends(spawn) -> None:
    child = spawn()
    child.receive(Ready)
    child.send(start(max_tokens=50))
    child.send(Drain())
    last = child.receive(StepOutput, lambda frame: any(output.finish for output in frame.outputs))
    assert last.outputs[0].at == 49
    status, output, _ = child.wait()
    assert status == 0 and output == "executor shut down\n"


def test_a_lone_heartbeat_comes_while_loading(spawn) -> None:
    child = spawn("slow to load")
    heartbeat = child.receive(Heartbeat)
    assert (heartbeat.step, heartbeat.pending) == (0, 0)
    child.receive(Ready)


def test_a_stuck_step_still_beats_with_a_counter_that_stands(spawn) -> None:
    child = spawn("stuck in the third step")
    child.receive(Ready)
    child.send(start(max_tokens=9))
    beats = [child.receive(Heartbeat) for _ in range(3)]
    assert [(beat.step, beat.pending, beat.limit) for beat in beats[-2:]] == [(2, 1, LEAST), (2, 1, LEAST)]


@pytest.mark.parametrize("model", ["well", "stuck in the third step"])
def test_the_end_of_standard_input_ends_it_even_in_mid_step(spawn, model: str) -> None:
    child = spawn(model)
    child.receive(Ready)
    child.send(start(max_tokens=3))
    child.receive(Heartbeat)
    child.process.stdin.close()
    assert child.process.wait(timeout=PATIENCE) == os.EX_UNAVAILABLE


def beat(child: Child, seconds: float) -> None:
    """Signs of life, as a gateway gives them."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        child.send(Alive())
        time.sleep(0.1)


@pytest.mark.parametrize("model", ["well", "stuck in the third step"])
def test_a_gateway_that_is_silent_loses_its_engine_even_in_mid_step(spawn, model: str) -> None:
    child = spawn(model, engine_lease=1.5)
    child.receive(Ready)
    child.send(start(max_tokens=3))
    beat(child, 3.0)
    assert child.process.poll() is None, "its signs of life are taken in, in mid-step too"
    child.receive(Heartbeat)
    status, _, errors = child.wait()
    assert status == os.EX_UNAVAILABLE and "no sign of life from the gateway for 1.5 s: ending" in errors


def test_signs_of_life_ask_for_nothing(spawn) -> None:
    child = spawn()
    child.receive(Ready)
    for message in (Alive(), start(max_tokens=3), Alive(), Drain(), Alive()):
        child.send(message)
    child.receive(StepOutput, lambda frame: any(output.finish for output in frame.outputs))
    assert child.wait()[0] == os.EX_OK


def test_a_mistake_of_the_model_is_one_line_and_no_traceback(spawn) -> None:
    child = spawn("broken model")
    failed = child.receive(Failed)
    assert failed == Failed(message="The weights lack lm_head.weight.", expected=True)
    status, _, errors = child.wait()
    assert status == 1 and "Traceback" not in errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"executor": "nope"}, "There is no executor 'nope'; there are: main, multiproc, scripted, uniproc."),
        ({"max_model_len": 20_000}, "does not fit the KV cache, which holds 10240 tokens"),
    ],
)
def test_settings_that_cannot_be_met_are_told(spawn, settings: dict[str, object], message: str) -> None:
    child = spawn(**settings)
    failed = child.receive(Failed)
    assert failed.expected and message in failed.message
    assert child.wait()[0] == 1


def test_a_fault_in_a_step_ends_it_with_a_traceback(spawn) -> None:
    child = spawn("fails in the third step")
    child.receive(Ready)
    child.send(start(max_tokens=9))
    failed = child.receive(Failed)
    assert failed == Failed(message="ValueError: a kernel has failed", expected=False)
    status, _, errors = child.wait()
    assert status == os.EX_SOFTWARE and "Traceback" in errors and "engine=0.3" in errors


def test_a_rank_that_is_lost_while_idle_is_told_without_a_traceback(spawn) -> None:
    child = spawn("loses a rank while idle")
    child.receive(Ready)
    child.send(start(max_tokens=1))
    failed = child.receive(Failed)
    assert failed == Failed(message="rank 1 (process 7) was killed by SIGKILL", expected=False)
    status, _, errors = child.wait()
    assert status == os.EX_SOFTWARE and "was killed by SIGKILL: the engine ends" in errors and "Traceback" not in errors


def test_a_frame_that_is_no_message_ends_it(spawn) -> None:
    child = spawn()
    child.receive(Ready)
    child.socket.send(b"\x80")
    assert not child.receive(Failed).expected
    assert child.wait()[0] == os.EX_SOFTWARE


def test_signals(spawn) -> None:
    child = spawn()
    child.receive(Ready)
    child.process.send_signal(signal.SIGINT)
    child.process.send_signal(signal.SIGTERM)
    child.process.send_signal(signal.SIGUSR1)
    child.send(start())
    child.receive(StepOutput, lambda frame: any(output.finish for output in frame.outputs))
    child.send(Drain())
    status, _, errors = child.wait()
    assert status == os.EX_OK
    assert "in run" in errors and "in _watch" in errors
