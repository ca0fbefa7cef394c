"""What an engine's loop is given to send and receive by, with what may go wrong there."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sim_network import EngineLine

from engine.channel import HEARTBEAT_INTERVAL
from engine.messages import Alive, FromEngine, StepOutput, ToEngine, decode_to_engine, encode

if TYPE_CHECKING:
    from sim_process import SimProcess


class SimTransport:
    def __init__(self, process: SimProcess) -> None:
        self._process = process
        self._inbox: deque[bytes] = deque()
        self.line = EngineLine(process.table.network, self._arrive)
        self.sends_to_kill = -1
        """Messages until one is the death of the process; below 0: none is."""
        self.outputs_to_lose = 0
        self.lost_outputs = 0

    def send(self, message: FromEngine) -> None:
        process = self._process
        if not process.alive:
            return
        if self.sends_to_kill >= 0:
            self.sends_to_kill -= 1
            if self.sends_to_kill < 0:
                process.die_here(-9)
        if isinstance(message, StepOutput):
            process.table.check_output(process, message)
            if self.outputs_to_lose:
                message = self._without_one(message)
        self.line.send(encode(message))

    def receive(self, *, wait: bool) -> list[ToEngine]:
        if wait and not self._inbox:
            self._process.thread.listen(HEARTBEAT_INTERVAL)
        messages = map(decode_to_engine, self._inbox)
        said = [message for message in messages if not isinstance(message, Alive)]
        self._inbox.clear()
        return said

    def _arrive(self, frame: bytes) -> None:
        self._process.hear()
        self._inbox.append(frame)
        self._process.thread.wake()

    def _without_one(self, message: StepOutput) -> StepOutput:
        process = self._process
        for number, output in enumerate(message.outputs):
            if output.finish is None and output.ids:
                self.outputs_to_lose -= 1
                self.lost_outputs += 1
                process.table.lost_outputs[output.id] += 1
                rest = message.outputs[:number] + message.outputs[number + 1 :]
                process.kernel.note(str(process), "loses tokens of", output.id, "at", output.at)
                return StepOutput(started=message.started, outputs=rest, stats=message.stats)
        return message
