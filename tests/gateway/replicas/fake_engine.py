"""A real process that speaks the engine's protocol and holds no model: token n of a choice is ``first + n``.

What it does wrong is asked for by ``--misbehave``; everything else is what an engine does.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time

import msgspec
import zmq

from engine.launch import Launch
from engine.messages import (
    Abort,
    Drain,
    EngineInfo,
    Failed,
    Heartbeat,
    Loading,
    Ready,
    Start,
    StepOutput,
    Tokens,
    decode_to_engine,
    encode,
)
from observability.records import EngineState, StepStats

INFO = EngineInfo(
    device="cpu",
    dtype="float32",
    parameters=1,
    weight_bytes=4,
    max_model_len=1000,
    block_size=16,
    num_blocks=8,
    cache_bytes=64,
    vocab_size=100,
    eos_token_ids=[0],
    fingerprint="fake",
    kernels={},
    load_seconds={},
)


class FakeEngine:
    def __init__(self, endpoint: str, misbehave: str, pace: float) -> None:
        self.socket = zmq.Context.instance().socket(zmq.PAIR)
        self.socket.linger = 200
        self.socket.connect(endpoint)
        self.misbehave = misbehave
        self.pace = pace
        self.step = 0
        self.running: dict[str, tuple[Start, int]] = {}
        self.draining = False

    def send(self, message: object) -> None:
        self.socket.send(encode(message))

    def serve(self) -> int:
        if self.misbehave == "refuse":
            self.send(Failed(message="no such model", expected=True))
            return 1
        if self.misbehave == "crash-in-start-up":
            return 3
        self.send(Loading(stage="weights", done=1, total=1))
        self.send(Ready(info=INFO))
        while not (self.draining and not self.running):
            self.send(Heartbeat(step=self.step, pending=len(self.running)))
            readable, _, _ = select.select([0], [], [], 0)
            if readable and not os.read(0, 100):
                return 0
            while self.socket.poll(int(self.pace * 1000)):
                self.handle(self.socket.recv())
            if self.running and self.misbehave != "stall":
                self.make_step()
        return 0

    def handle(self, frame: bytes) -> None:
        match decode_to_engine(frame):
            case Start() as start:
                self.running[start.id] = (start, len(start.output_prefix))
                if self.misbehave == "garbage":
                    self.socket.send(b"\xc1 this is no message")
            case Abort(id=choice_id):
                self.running.pop(choice_id, None)
            case Drain():
                self.draining = True

    def make_step(self) -> None:
        self.step += 1
        outputs = []
        for choice_id, (start, at) in list(self.running.items()):
            done = at + 1 == start.params.max_tokens
            outputs.append(
                Tokens(
                    id=choice_id,
                    attempt=start.attempt,
                    at=at,
                    ids=[start.prompt[0] + at],
                    finish="length" if done else None,
                )
            )
            self.running[choice_id] = (start, at + 1)
            if done:
                del self.running[choice_id]
        stats = StepStats(
            step=self.step,
            duration=0.0,
            scheduled_tokens=len(outputs),
            prompt_tokens=0,
            generated_tokens=len(outputs),
            state=EngineState(running=len(self.running), waiting=0, blocks_used=0, blocks_total=8),
            preemptions=0,
            prefix_queries=0,
            prefix_hits=0,
        )
        self.send(
            StepOutput(started=[output.id for output in outputs if not output.at], outputs=outputs, stats=[stats])
        )
        if self.misbehave == "die-after-step":
            time.sleep(0.02)  # the frame is with the kernel, whatever becomes of this process
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--misbehave", default="")
    parser.add_argument("--pace", type=float, default=0.002)
    parser.add_argument("--which", type=int, default=-1, help="replica that misbehaves; all, where it is -1")
    options = parser.parse_args()
    launch = msgspec.json.decode(sys.stdin.buffer.readline(), type=Launch)
    signal.signal(signal.SIGUSR1, lambda *_: print("dumped", flush=True))
    misbehave = options.misbehave if options.which in (-1, launch.config.replica) else ""
    return FakeEngine(launch.endpoint, misbehave, options.pace).serve()


if __name__ == "__main__":
    sys.exit(main())
