"""Which choices may have brought an engine down, and who may run beside whom until that is known. Pure policy.

A crash counts against a choice only if the step under way computed it, and it had emitted nothing since it was last
handed to an engine. It is then a suspect: it runs alone, on the replica that was lost and on no other, until it has
passed that position. Two such crashes alone at one position convict it.

The end of an engine that was killed from outside says less: a choice is a suspect by ``KILLS`` of them at one position.
With one, whatever kills an engine that begins with many choices would have each of them run alone, one after the other,
while the others wait.

Where an engine ended by its own doing, all that the step under way computed stay with that replica until they have
passed their positions: one of them may do the same to the next engine.

A choice is suspected, but not convicted, by being found at the very position of its last crash as well: tokens that
wait in an engine are lost with it, so a choice can emit a few and still come to the same position again.

An engine can also end by its own doing in between two steps, again and again, beside choices that get on. Whoever has
emitted nothing since it was handed to the last ``UNLUCKY`` engines that ended so is a suspect as well.

So an engine that is killed from outside, however often, convicts nobody who gets on in between; and a request that
crashes engines takes one replica down a few times, and then ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONVICTION = 2
"""Crashes alone, at one position."""
KILLS = 2
"""Engines killed from outside, at one position, that make a suspect."""
UNLUCKY = 3
"""Crashes of engines by their own doing, outside of any step, since the last token."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A choice that a lost engine had."""

    id: str
    emitted: int
    """Output tokens of it that have arrived in all."""
    since: int
    """Of these, how many since it was handed to that engine."""
    executing: int | None = None
    """Output tokens it had when the step under way began; None where that step computed nothing of it."""


@dataclass(frozen=True, slots=True)
class _Found:
    position: int
    """Output tokens that it had."""
    times: int
    """Crashes in a row there that count."""


_NOWHERE = _Found(-1, 0)


@dataclass(slots=True)
class _Suspect:
    replica: int
    position: int
    """Output tokens that it had when it crashed."""
    crashes: int = 0
    """Alone, at this position."""


class Suspects:
    """Choices by their ids. Those that are done must be forgotten."""

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspect] = {}
        self._found: dict[str, _Found] = {}
        """Choice → where its last crash found it."""
        self._bound: dict[str, int] = {}
        """Choice → the replica that it stays with."""
        self._unlucky: dict[str, int] = {}
        """Choice → crashes in between steps, since its last token."""

    def __len__(self) -> int:
        """Choices for which there are rules."""
        return len(self._suspects.keys() | self._bound.keys())

    def __contains__(self, choice_id: str) -> bool:
        return choice_id in self._suspects

    def lost(self, replica: int, witnesses: Sequence[Witness], *, productive: bool, own_doing: bool) -> list[str]:
        """An engine crashed with these choices; gives the ids of those that are convicted.

        ``own_doing``: nobody from outside ended it. Where that is so and no witness was executing, as far as is known,
        a suspect that was alone must have been, and otherwise all may have been, unless the engine was ``productive``:
        any token of it has arrived.
        """
        known = any(witness.executing is not None for witness in witnesses)
        alone = len(witnesses) == 1 and witnesses[0].id in self._suspects
        if known:
            involved = [witness for witness in witnesses if witness.executing is not None]
        elif not own_doing:
            return []
        elif alone or not productive:
            involved = list(witnesses)
        else:
            involved = self._out_of_luck(witnesses)
        if own_doing:
            self._bound |= {witness.id: replica for witness in involved}
        return [witness.id for witness in involved if self._is_convicted(replica, witness, own_doing)]

    def _out_of_luck(self, witnesses: Sequence[Witness]) -> list[Witness]:
        """Of an engine that got on with others, those that may have ended it."""
        still = [witness for witness in witnesses if not witness.since]
        for witness in still:
            self._unlucky[witness.id] = self._unlucky.get(witness.id, 0) + 1
        return [witness for witness in still if self._unlucky[witness.id] >= UNLUCKY]

    def _is_convicted(self, replica: int, witness: Witness, own_doing: bool) -> bool:
        suspect = self._suspects.get(witness.id)
        if witness.executing is not None:
            position = witness.executing
        else:
            position = max(witness.emitted, suspect.position if suspect is not None else 0)
        before = self._found.get(witness.id, _NOWHERE)
        again = before.position == position
        counts = not witness.since or (again and suspect is None)
        times = (before.times if again else 0) + counts
        self._found[witness.id] = _Found(position, times)
        if not counts:
            return False
        if suspect is None:
            if own_doing or times >= KILLS:
                self._suspects[witness.id] = _Suspect(replica, position)
            return False
        # It was a suspect before, so it was alone.
        suspect.crashes = suspect.crashes + 1 if suspect.position == position else 1
        suspect.position = position
        return suspect.crashes >= CONVICTION

    def may_run(self, choice_id: str, replica: int, *, occupied: bool) -> bool:
        """Whether a choice may be handed to a replica now; ``occupied``: others run there."""
        suspect = self._suspects.get(choice_id)
        if suspect is None:
            return self._bound.get(choice_id, replica) == replica and not self.quarantines(replica)
        return suspect.replica == replica and not occupied

    def quarantines(self, replica: int) -> bool:
        """Whether there are suspects for which this replica is kept free."""
        return any(suspect.replica == replica for suspect in self._suspects.values())

    def settle(self, choice_id: str, replicas: Sequence[int]) -> None:
        """These are all that can serve the choice; if the one it is to stay with is none of them, it moves."""
        if self._bound.get(choice_id) not in replicas:
            self._bound.pop(choice_id, None)
        suspect = self._suspects.get(choice_id)
        if suspect is not None and replicas and suspect.replica not in replicas:
            suspect.replica = replicas[0]

    def passed(self, choice_id: str, emitted: int) -> bool:
        """So many tokens of a choice have arrived; whether it was a suspect and no longer is."""
        self._unlucky.pop(choice_id, None)
        if choice_id in self._bound and emitted > self._found[choice_id].position:
            del self._bound[choice_id]
        suspect = self._suspects.get(choice_id)
        if suspect is None or emitted <= suspect.position:
            return False
        del self._suspects[choice_id]
        return True

    def forget(self, choice_id: str) -> bool:
        """The choice is done; whether it was a suspect."""
        self._found.pop(choice_id, None)
        self._bound.pop(choice_id, None)
        self._unlucky.pop(choice_id, None)
        return self._suspects.pop(choice_id, None) is not None
