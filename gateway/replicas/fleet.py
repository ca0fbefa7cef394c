"""The supervisors of all replicas, started and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from engine.config import EngineConfig
from engine.messages import EngineInfo, Loading
from gateway.replicas.launchers import Launcher
from gateway.replicas.supervisor import EngineGoneError, Listener, Supervisor
from gateway.replicas.watched_engine import Limits


class Fleet:
    """``start`` once, ``stop`` once; ``wait_ready`` between them, for the banner."""

    def __init__(
        self,
        configs: Sequence[EngineConfig],
        launcher: Launcher,
        listener: Listener,
        *,
        standby: bool = False,
        on_loading: Callable[[Loading], None] = lambda _: None,
        limits: Limits | None = None,
    ) -> None:
        """One configuration for each replica; with ``standby`` each has a second process that waits.

        ``on_loading`` hears how the first one starts, and how many are up.
        """
        self._on_loading = on_loading
        self.supervisors = [
            Supervisor(
                config,
                launcher,
                listener,
                replica=config.replica,
                standby=standby,
                on_loading=(lambda _: None) if number else on_loading,
                limits=limits,
            )
            for number, config in enumerate(configs)
        ]

    def start(self) -> None:
        for supervisor in self.supervisors:
            supervisor.start()

    async def wait_ready(self) -> list[EngineInfo]:
        """Until every replica has been up. Raises ``EngineGoneError`` where one will not be."""
        up = 0

        async def one(number: int, supervisor: Supervisor) -> EngineInfo:
            nonlocal up
            try:
                info = await supervisor.wait_ready()
            except EngineGoneError as error:
                if len(self.supervisors) == 1:
                    raise
                raise EngineGoneError(f"replica {number}: {error}") from None
            up += 1
            if len(self.supervisors) > 1:
                self._on_loading(Loading(stage="replicas", done=up, total=len(self.supervisors), unit="up"))
            return info

        waiting = [asyncio.ensure_future(one(*each)) for each in enumerate(self.supervisors)]
        try:
            return await asyncio.gather(*waiting)
        finally:
            for each in waiting:
                each.cancel()

    async def stop(self) -> None:
        """Ends all engines and returns when no process is left. Idempotent."""
        await asyncio.gather(*(supervisor.stop() for supervisor in self.supervisors))
