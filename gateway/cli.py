"""Entry point of the ``penstock`` command.

Nothing but the head start of the engine is imported before it: settings and web framework load beside the engine.
"""

from __future__ import annotations

import gc
import sys
from contextlib import nullcontext

from gateway.head_start import HeadStart


def main() -> None:
    """The command, by ``sys.argv``. A mistake of the user's is one line on standard error, never a traceback."""
    arguments = sys.argv[1:]
    gc.disable()  # imports leave next to no garbage; the server collects it once it is up
    serves = arguments[:1] == ["serve"] and not {"-h", "--help"} & set(arguments)
    try:
        with HeadStart() if serves else nullcontext() as head_start:
            from gateway import commands

            status = commands.run(head_start)
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
