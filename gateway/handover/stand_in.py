"""What a server becomes once another has taken over from it: the process that whoever started it knows.

A service manager, a container and a shell know a server by the id of the process they started, and take its end for the
server's. So that process stays. It costs a few megabytes, passes on SIGTERM and SIGINT, and ends with the server that
is the last to follow it, with its exit status. Servers that were started by an upgrade simply end: what they leave is
adopted by this process (``engine.linux.adopt_orphans``), so there is one of its kind however many upgrades there are.

Run as a script: only the standard library is at hand.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import NoReturn

STOP: signal.Signals = getattr(signal, "SIGRTMIN", signal.SIGTERM)
"""End in order. Unlike SIGTERM it may come twice: a service manager tells every process of a service itself."""
HEARD = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


def block_signals() -> None:
    """What comes from now on waits for the stand-in."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)


def become() -> NoReturn:
    """Replace this process by its stand-in."""
    sys.stdout.flush()
    sys.stderr.flush()
    block_signals()
    os.execv(sys.executable, [sys.executable, "-I", "-S", __file__])


def servers() -> list[int]:
    """Children that are servers: engines are sessions of their own, from birth."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [pid for pid in map(int, children) if _is_server(pid)]


def main() -> int:
    """Until no server is left; its exit status."""
    status, told = 0, False
    while True:
        while (ended := _ended()) is not None:
            ours = _is_server(ended)
            _, how = os.waitpid(ended, 0)
            if ours:
                status = os.waitstatus_to_exitcode(how)
        remaining = servers()
        if not remaining:
            return status if status >= 0 else 128 - status
        came = signal.sigwaitinfo(HEARD)
        if came.si_signo == signal.SIGCHLD or _from_terminal(came):
            continue
        for pid in remaining:
            os.kill(pid, signal.SIGTERM if told else STOP)
        told = True


def _ended() -> int | None:
    """A child that is dead and not reaped."""
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return ended.si_pid if ended is not None else None


def _is_server(pid: int) -> bool:
    return os.getsid(pid) == os.getsid(0)


def _from_terminal(came: signal.struct_siginfo) -> bool:
    """A terminal's Ctrl-C has reached the server already: the kernel tells every process in the foreground."""
    return came.si_signo == signal.SIGINT and came.si_pid == 0


if __name__ == "__main__":
    sys.exit(main())
