"""Entry point of the ``penstock`` command.

Nothing but the head start of the engine is imported before it: settings and web framework load beside the engine.
"""

from __future__ import annotations

import gc
import signal
import sys
from contextlib import nullcontext


def main() -> None:
    """The command, by ``sys.argv``. A mistake of the user's is one line on standard error, never a traceback."""
    # An interrupt in the middle of an import is a traceback, or swallowed by what is imported. So until a command
    # listens for it, Ctrl-C ends this process at once; an engine that is told nothing ends by itself.
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gateway.head_start import HeadStart

    arguments = sys.argv[1:]
    gc.disable()  # imports leave next to no garbage; the server collects it once it is up
    serves = arguments[:1] == ["serve"] and not {"-h", "--help"} & set(arguments)
    try:
        with HeadStart() if serves else nullcontext() as head_start:
            from gateway import commands

            if interruptible and not serves:  # the server listens in a way of its own
                signal.signal(signal.SIGINT, signal.default_int_handler)
            status = commands.run(head_start)
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
