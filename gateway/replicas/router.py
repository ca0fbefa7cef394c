"""Which replica serves a choice: where its prompt's beginning is cached, weighed against what each has still to do.

Everything is counted in tokens. Of each replica that takes new work,

    cost = load / 2 + prompt - matched

where ``load`` is what it has still to do for others, and ``matched`` is how much of the prompt its prefix cache holds,
or will hold by the time. Load counts half: a token that waits is late once, one that is computed again keeps all that
come after it waiting. The lowest cost wins; of equals the longest match, then one at random.

A beginning after which prompts have gone on in ``COPIED`` ways for each replica belongs in every cache, and does not
count as a match: the copies cost little beside what it saves, and without them one replica would get all there is. A
prompt that matches nothing else goes to the less loaded of two drawn at random (the power of two choices, Mitzenmacher
2001), of equals to the one whose cache holds less.

Before that, a choice joins its siblings, and a session goes on where it was, unless that replica has ``SESSION_SLACK``
tokens more to do than the least loaded one.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateway.replicas.prefix_index import PrefixIndex

Routing = Literal["prefix", "random"]
Reason = Literal["sibling", "session", "prefix", "load", "random"]

COPIED = 8
SESSION_SLACK = 2048
SESSIONS = 1 << 16
"""Sessions remembered at a time; the one not heard of for the longest is forgotten first."""


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """An engine that is up."""

    replica: int
    epoch: int
    load: int = 0
    """Tokens it has still to compute, as far as can be told."""
    draining: bool = False
    """Takes no new work."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is to be placed."""

    digests: Sequence[bytes] = ()
    """Of the blocks that could be taken over from a cache, see ``engine/block_digests.py``."""
    block_size: int = 1
    session: bytes | None = None
    beside: int | None = None
    """The replica where other choices of the same prompt are."""


@dataclass(frozen=True, slots=True)
class Route:
    replica: int
    reason: Reason
    matched: int
    """Tokens of the prompt that are cached there, or will be."""


class Router:
    """The same calls with the same source of randomness give the same routes."""

    def __init__(
        self,
        routing: Routing = "prefix",
        *,
        index: PrefixIndex | None = None,
        rng: random.Random | None = None,
        sessions: int = SESSIONS,
    ) -> None:
        """``random`` ignores caches, sessions and load: for comparison."""
        self._random = routing == "random"
        self._rng = rng or random.Random()
        self._max_sessions = sessions
        self._sessions: OrderedDict[bytes, tuple[int, int]] = OrderedDict()
        """Session → replica and epoch."""
        self.index = PrefixIndex() if index is None else index

    @property
    def uses_digests(self) -> bool:
        return not self._random

    def choose(self, replicas: Sequence[ReplicaState], prompt: Prompt) -> Route | None:
        """One of the replicas that are not draining; None where there is none."""
        open_ = [state for state in replicas if not state.draining]
        if not open_:
            return None
        if self._random:
            beside = [state for state in open_ if state.replica == prompt.beside]
            return Route(self._rng.choice(beside or open_).replica, "sibling" if beside else "random", 0)
        found = self.index.matches(prompt.digests)
        known = max(found.values(), default=0)
        if prompt.beside is None:
            self.index.branch(prompt.digests, known)
        shared = self.index.shared(prompt.digests[:known], COPIED * len(replicas))
        matched = {state.replica: found.get(state.replica, 0) * prompt.block_size for state in open_}
        own = {replica: max(0, tokens - shared * prompt.block_size) for replica, tokens in matched.items()}
        chosen, reason = self._choose(open_, prompt, own)
        if prompt.session is not None:
            self._remember(prompt.session, chosen)
        return Route(chosen.replica, reason, matched[chosen.replica])

    def _choose(
        self, open_: Sequence[ReplicaState], prompt: Prompt, own: dict[int, int]
    ) -> tuple[ReplicaState, Reason]:
        for state in open_:
            if state.replica == prompt.beside:
                return state, "sibling"
        session = self._sessions.get(prompt.session) if prompt.session is not None else None
        if session is not None:
            least = min(state.load for state in open_)
            for state in open_:
                if (state.replica, state.epoch) == session and state.load <= least + SESSION_SLACK:
                    return state, "session"
        if not any(own.values()):
            drawn = self._rng.sample(open_, min(2, len(open_)))
            return min(drawn, key=lambda state: (state.load, self.index.held(state.replica))), "load"

        def cost(state: ReplicaState) -> tuple[float, int, float]:
            match = own[state.replica]
            return state.load / 2 - match, -match, self._rng.random()

        cheapest = min(open_, key=cost)
        return cheapest, "prefix" if own[cheapest.replica] else "load"

    def _remember(self, session: bytes, state: ReplicaState) -> None:
        self._sessions[session] = (state.replica, state.epoch)
        self._sessions.move_to_end(session)
        if len(self._sessions) > self._max_sessions:
            self._sessions.popitem(last=False)
