"""Which replica serves a choice: a pure function of what each has to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    replica: int
    choices: int
    """Choices it has been sent and that are not done."""


def choose(replicas: Sequence[ReplicaSnapshot]) -> int | None:
    """The least loaded one, of equals the lowest number; None where there is none."""
    return min(replicas, key=lambda snapshot: (snapshot.choices, snapshot.replica)).replica if replicas else None
