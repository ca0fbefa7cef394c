"""Requests that crash whatever computes them, and how many engines they may take down."""

from __future__ import annotations

import random
from collections import Counter

from sim_gateway import SimGateway
from sim_kernel import Kernel
from sim_process import SimProcess
from sim_world import Call

from engine.batch import ScheduledBatch
from gateway.completion.suspects import CRASHES


class Poison:
    def __init__(self, kernel: Kernel, rng: random.Random, calls: list[Call]) -> None:
        self._kernel, self._rng = kernel, rng
        self._calls = {call.request.id: call for call in calls if call.poison is not None}
        self._taken_down: Counter[tuple[int, str]] = Counter()
        """(Gateway process, choice) → engines that it has crashed."""

    def compute(self, gateway: SimGateway, process: SimProcess, batch: ScheduledBatch) -> None:
        """Crashes the process if the step is to sample a token that cannot be."""
        for sample in batch.samples if self._calls else ():
            choice = batch.sequence_ids[sample.row]
            call = self._calls.get(choice.partition(".")[0])
            if call is not None and sample.position == call.poison and sample.choice < call.poisoned:
                self._kernel.note(process, "computes poison:", choice)
                self._take_down(gateway, choice)
                process.crash(self._rng.choice(["exception", "signal", "no memory"]))

    def _take_down(self, gateway: SimGateway, choice: str) -> None:
        """What a choice does to engines has a bound, whatever else goes wrong."""
        if gateway.loop.dead:
            return
        self._taken_down[gateway.number, choice] += 1
        crashes = self._taken_down[gateway.number, choice]
        # A gap has an attempt called off, which goes on for a moment beside the next.
        if crashes > CRASHES + gateway.table.lost_outputs[choice]:
            self._kernel.fail(f"{choice} has crashed {crashes} engines, where {CRASHES} are the most")

    def count(self) -> Counter[str]:
        requests: Counter[tuple[int, str]] = Counter()
        for (gateway, choice), crashes in self._taken_down.items():
            requests[gateway, choice.partition(":")[0]] += crashes
        happened = Counter({"poison": len(self._calls)})
        happened.update(f"choice that crashed engines: {crashes}" for crashes in self._taken_down.values())
        happened.update(f"request that crashed engines: {crashes}" for crashes in requests.values())
        return happened
