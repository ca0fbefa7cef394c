"""A process that supervises one fake engine, prints its pid and waits to be killed."""

from __future__ import annotations

import asyncio

from supervised import Host


async def main() -> None:
    host = Host()
    host.supervisor.start()
    await host.supervisor.wait_ready()
    print(host.supervisor.pid, flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
