"""The thread of an engine process, in simulated time.

It is a greenlet, which gives up control wherever the real one would wait or take time. In between nothing else happens,
so a history is a sequence of such pieces in the order of their simulated times.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from greenlet import GreenletExit, getcurrent, greenlet
from sim_kernel import Event, Kernel


class SimThread:
    def __init__(self, kernel: Kernel, main: Callable[[], None], ran: Callable[[], None]) -> None:
        """``ran`` is called whenever it is about to go on."""
        self._kernel = kernel
        self._greenlet = greenlet(main)
        self._ran = ran
        self._alarm: Event | None = None
        self._listening = False
        self._due = False
        """Whether its time has come while it was stopped."""
        self._ended = False
        self.stopped = False

    def start(self) -> None:
        self._kernel.after(0.0, self._go_on)

    # --- what it does itself -----------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        self._alarm = self._kernel.after(seconds, self._go_on)
        self.wait()

    def listen(self, seconds: float) -> None:
        """A pause that ``wake`` ends."""
        self._listening = True
        self.pause(seconds)
        self._listening = False

    def wait(self) -> None:
        """For nothing."""
        getcurrent().parent.switch()

    # --- what is done to it ------------------------------------------------------------------------------------

    def wake(self) -> None:
        if self._listening:
            self._listening = False
            if self._alarm is not None:
                self._alarm.cancel()
            self._kernel.after(0.0, self._go_on)

    def resume(self) -> None:
        """After it was ``stopped``."""
        self.stopped = False
        if self._due:
            self._due = False
            self._kernel.after(0.0, self._go_on)

    def end(self) -> None:
        self._ended = True
        if not self._greenlet.dead and getcurrent() is not self._greenlet:
            with suppress(GreenletExit):
                self._greenlet.throw(GreenletExit)

    def _go_on(self) -> None:
        if self._ended or self._greenlet.dead:
            return
        if self.stopped:
            self._due = True
            return
        self._ran()
        self._greenlet.switch()
