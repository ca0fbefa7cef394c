"""A lifecycle with fake engines, and what it has recorded."""

from __future__ import annotations

import random
from typing import Any

import tokenizers_for_tests as families
from engine_for_tests import FakeEngine, ManualClock, Records, ids_of

from gateway.completion.journal import MemoryJournal
from gateway.completion.lifecycle import Lifecycle
from gateway.replicas.router import Router
from observability.records import RequestStats

ABC = ids_of("abcdefgh")


class World:
    """Replicas that are up; ``engines`` are their newest incarnations."""

    def __init__(self, replicas: int = 1) -> None:
        self.clock = ManualClock()
        self.journal = MemoryJournal()
        self.records = Records()
        self.router = Router(rng=random.Random(3))
        self.lifecycle = Lifecycle(
            families.byte_level(),
            record=self.records,
            clock=self.clock,
            journal=self.journal,
            router=self.router,
            replicas=replicas,
        )
        self.engines = [FakeEngine(self.lifecycle, replica=replica) for replica in range(replicas)]

    @property
    def engine(self) -> FakeEngine:
        """Of the first replica, which may be the only one."""
        return self.engines[0]

    def restart(self, replica: int = 0, **options: Any) -> FakeEngine:
        epoch = self.engines[replica].epoch + 1
        self.engines[replica] = FakeEngine(self.lifecycle, replica=replica, epoch=epoch, **options)
        return self.engines[replica]

    @property
    def ended(self) -> list[RequestStats]:
        return [record for record in self.records if isinstance(record, RequestStats)]

    def assert_nothing_is_left(self) -> None:
        lifecycle = self.lifecycle
        assert (lifecycle.queued_requests, lifecycle.queued_tokens, lifecycle.running_requests) == (0, 0, 0)
        assert not lifecycle._state.choices
        assert not lifecycle._state.suspects and not lifecycle._state.suspects._found
        assert not len(self.journal)
        assert all(not each.running and not each.load for each in lifecycle._placement._incarnations.values())
        assert not self.router.index._expected
