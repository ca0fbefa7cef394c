"""Crew: the rank processes as the engine has them. It starts them, tells them all the same, hears them, sees them die.

A rank inherits what it needs as file descriptors: the ring that every rank reads, its own line, and the memory through
which ranks find each other. So nothing has a name or a port, and nothing is left when the processes are gone. A rank
dies with the engine process (``engine.ranks.process``), and one that dies is seen at once, through its pidfd.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from typing import TypeVar

from engine.config import EngineConfig
from engine.errors import ConfigurationError, ModelError, RankError
from engine.executor.base import Progress
from engine.ranks.line import EngineLine
from engine.ranks.messages import FromRank, RankFailed, RankLoading, ToRank, decode_from_rank, encode
from engine.ranks.ring import RingWriter

logger = logging.getLogger(__name__)

GRACE = 0.5
"""Seconds in which, after one rank has complained, another one may turn out to have died: that is the reason then."""
DUMP = 0.3
"""Seconds that the ranks have to write their stacks."""

M = TypeVar("M", bound=FromRank)


class Rank:
    """One process and the line to it."""

    def __init__(self, number: int, config: EngineConfig, inherited: dict[str, int], threads: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = inherited | {"line": theirs.fileno()}
            options = [f"--{name}={value}" for name, value in descriptors.items()]
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "engine.ranks.process",
                    f"--replica={config.replica}",
                    f"--rank={number}",
                    f"--ranks={config.ranks}",
                    f"--parent={os.getpid()}",
                    *options,
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=tuple(descriptors.values()),
                env=_environment(threads),
            )
        self.number = number
        self.line = EngineLine(ours)
        self.pidfd = os.pidfd_open(self.process.pid)

    def death(self, seconds: float = 0.0) -> str | None:
        """How the process has died, if it has or does so in time."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        return f"rank {self.number} (process {self.process.pid}) {how}"

    def end(self) -> None:
        """Kill it, and return when it is dead. Idempotent."""
        self.process.kill()
        self.process.wait()
        self.line.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Crew:
    def __init__(self, config: EngineConfig, threads: int, progress: Progress) -> None:
        """Start the ranks, each of which computes with ``threads`` threads. ``progress`` is told of all together."""
        self._progress = progress
        self._loading: dict[str, dict[int, RankLoading]] = {}
        """Stage → rank → how far it has come."""
        self._ring = RingWriter(config.ranks, self._ring_bells, self._notice_death)
        self._meeting = os.memfd_create("penstock-meeting")
        inherited = {"ring": self._ring.descriptor, "meeting": self._meeting}
        self._ranks: list[Rank] = []
        self._heard: deque[tuple[int, FromRank]] = deque()
        self._poll = select.poll()
        try:
            for number in range(config.ranks):
                self._ranks.append(Rank(number, config, inherited, threads))
        except BaseException:
            self.end()
            raise
        for rank in self._ranks:
            self._poll.register(rank.line, select.POLLIN)
            self._poll.register(rank.pidfd, select.POLLIN)

    @property
    def pids(self) -> list[int]:
        return [rank.process.pid for rank in self._ranks]

    def tell(self, message: ToRank) -> None:
        """To every rank. Raises RankError where one has died."""
        self._ring.write(encode(message))

    def hear(self, seconds: float | None = None) -> tuple[int, FromRank] | None:
        """The next message of any rank, and whose it is; None where none comes in time.

        Raises RankError where a rank has died or failed, and a mistake that a rank has found as what it is.
        """
        end = None if seconds is None else time.monotonic() + seconds
        while not self._heard:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not self._poll.poll(None if left is None else left * 1000):
                return None
            self._collect()
            self._notice_death()
        return self._heard.popleft()

    def hear_from_all(self, kind: type[M]) -> dict[int, M]:
        """A message of this kind from every rank. Others are a fault."""
        answers: dict[int, M] = {}
        while len(answers) < len(self._ranks):
            found = self.hear()
            assert found is not None, "without a limit of time it comes"
            number, message = found
            if not isinstance(message, kind) or number in answers:
                raise RankError(f"rank {number} says {type(message).__name__} where {kind.__name__} was asked for")
            answers[number] = message
        return answers

    def check(self) -> None:
        """Raises RankError where a rank has died or failed. For times when nothing is asked of the ranks."""
        if self._poll.poll(0):
            self._collect()
            self._notice_death()

    def dump(self) -> None:
        """Have every rank write the stacks of its threads to its log."""
        for rank in self._ranks:
            rank.process.send_signal(signal.SIGUSR1)
        time.sleep(DUMP)

    def end(self) -> None:
        """Kill every rank, a stopped one too, and let go of all that was shared. Idempotent."""
        for rank in self._ranks:
            rank.process.kill()
        for rank in self._ranks:
            rank.end()
        if self._meeting >= 0:
            os.close(self._meeting)
            self._ring.close()
            self._meeting = -1

    def _ring_bells(self, written: int) -> None:
        for rank in self._ranks:
            rank.line.ring(written)

    def _collect(self) -> None:
        """Take in what ranks have said; what one said before it died counts."""
        for rank in self._ranks:
            rank.line.collect()
            while (frame := rank.line.frame()) is not None:
                message = decode_from_rank(frame)
                if isinstance(message, RankFailed):
                    self._give_up(rank, message)
                elif isinstance(message, RankLoading):
                    self._add_progress(rank.number, message)
                else:
                    self._heard.append((rank.number, message))

    def _add_progress(self, rank: int, message: RankLoading) -> None:
        reports = self._loading.setdefault(message.stage, {})
        reports[rank] = message
        done, total = sum(each.done for each in reports.values()), sum(each.total for each in reports.values())
        self._progress(message.stage, done, total, message.unit)

    def _notice_death(self) -> None:
        for rank in self._ranks:
            # Who closes its line is about to die.
            if death := rank.death(GRACE if rank.line.ended else 0.0):
                raise RankError(death)
            if rank.line.ended:
                raise RankError(f"rank {rank.number} (process {rank.process.pid}) has closed its line")

    def _give_up(self, rank: Rank, failed: RankFailed) -> None:
        """A rank whose neighbour dies fails as well, and is often the first to be heard."""
        if failed.kind in _MISTAKES:
            raise _MISTAKES[failed.kind](failed.message)
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            for other in self._ranks:
                if (death := other.death()) and other.process.returncode < 0:
                    raise RankError(death)
            time.sleep(0.01)
        logger.error("rank %d failed:\n%s", rank.number, failed.trace)
        raise RankError(f"rank {rank.number}: {failed.message}")


_MISTAKES: dict[str, type[Exception]] = {"model": ModelError, "configuration": ConfigurationError}


def _environment(threads: int) -> dict[str, str]:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    # Without it gloo asks for the address of this machine's name, which may be none or that of a slower way.
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment
