"""Which choices may have brought an engine down, and who may run beside whom until that is known. Pure policy.

A crash finds a choice where the step under way computed it: at the output token that the step was to sample for it. A
choice is suspected if an engine that ended by its own doing computed it before it had emitted anything there, or if
it is found at one position for the second time, whatever ended the engines. A suspect runs alone, on the replica that
was lost and on no other, until it has passed that position. Two crashes that find it alone at one position convict it.

So however many engines are lost for other reasons, in between or at once, and whoever else crashes some as well: **a
choice whose token at a position P cannot be computed takes down four engines at most** (``CRASHES``). Each engine that
it takes down finds it at P. What is found is counted by its position, and no count is ever taken back before that
position is passed, which P never is. The second crash at P makes it a suspect at the latest, so two find it beside
others, at most. From then on it is alone, and the second one that finds it so is the last.

(An attempt that was called off may be computed for a moment while the next one has begun. What that crashes counts as
found beside others: it is one of the two, except where a gap in what an engine said had the attempt called off.)

The end of an engine that was killed from outside says less: a choice of which nothing has been emitted there is a
suspect by two of these. With one, whatever kills an engine that begins with many choices would have each of them run
alone, one after the other, while the others wait.

Where an engine ended by its own doing, all that the step under way computed stay with that replica until they have
passed their positions: one of them may do the same to the next engine.

Where nobody knows what was computed, as when an engine ends by its own doing between two steps, all are involved of
whom nothing has been emitted there, if nothing has been emitted at all or if one was alone. Of an engine that got on
with others it is those of whom nothing has come from the last ``UNLUCKY`` engines that ended so.

So engines that are killed from outside, however many, convict nobody who passes the positions at which they find it;
and a request that crashes engines takes one replica down a few times, and then ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

FOUND = 2
"""Crashes at one position that make a suspect."""
CONVICTION = 2
"""Crashes alone, at one position."""
CRASHES = FOUND + CONVICTION
"""Engines that a choice takes down at most, where it is known what they computed."""
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
    executing: Sequence[int] = ()
    """Output tokens it had when the step under way began; two numbers where one step had begun before the other had
    ended, and nobody knows which of them it was; none where it was in no step."""
    called_off: bool = False
    """Whether its attempt there had been ended, and the engine had not heard of it."""


@dataclass(slots=True)
class _Found:
    """Of one choice: position → crashes that found it there."""

    in_all: Counter[int] = field(default_factory=Counter)
    alone: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class _Suspect:
    replica: int
    position: int
    """Output tokens that it had when it crashed."""


class Suspects:
    """Choices by their ids. Those that are done must be forgotten."""

    def __init__(self) -> None:
        self._suspects: dict[str, _Suspect] = {}
        self._found: dict[str, _Found] = {}
        self._bound: dict[str, tuple[int, int]] = {}
        """Choice → the replica that it stays with, and the position that it has to pass first."""
        self._unlucky: dict[str, int] = {}
        """Choice → crashes in between steps, since its last token."""

    def __len__(self) -> int:
        """Choices for which there are rules."""
        return len(self._suspects.keys() | self._bound.keys())

    def __contains__(self, choice_id: str) -> bool:
        return choice_id in self._suspects

    def lost(
        self, replica: int, witnesses: Sequence[Witness], *, productive: bool, own_doing: bool, known: bool
    ) -> list[str]:
        """An engine crashed with these choices; gives the ids of those that are convicted.

        ``own_doing``: nobody from outside ended it. ``productive``: any token of it has arrived. ``known``: it is
        known which of them the step under way computed, be it none.
        """
        if known:
            involved = [witness for witness in witnesses if witness.executing]
        elif not own_doing:
            return []
        elif not productive or (len(witnesses) == 1 and witnesses[0].id in self._suspects):
            involved = list(witnesses)
        else:
            involved = self._out_of_luck(witnesses)
        return [witness.id for witness in involved if self._is_convicted(replica, witness, own_doing)]

    def _out_of_luck(self, witnesses: Sequence[Witness]) -> list[Witness]:
        """Of an engine that got on with others, those that may have ended it."""
        still = [witness for witness in witnesses if not witness.since]
        for witness in still:
            self._unlucky[witness.id] = self._unlucky.get(witness.id, 0) + 1
        return [witness for witness in still if self._unlucky[witness.id] >= UNLUCKY]

    def _is_convicted(self, replica: int, witness: Witness, own_doing: bool) -> bool:
        suspect = self._suspects.get(witness.id)
        positions = witness.executing or [max(witness.emitted, suspect.position if suspect is not None else 0)]
        if own_doing:
            self._bound[witness.id] = (replica, max(positions))
        if not witness.executing and witness.since:
            return False
        found = self._found.setdefault(witness.id, _Found())
        found.in_all.update(positions)
        if suspect is not None and not witness.called_off:
            # So it was alone.
            found.alone.update(positions)
            suspect.position = max(suspect.position, *positions)
            return max(found.alone[position] for position in positions) >= CONVICTION
        again = any(found.in_all[position] >= FOUND for position in positions)
        if suspect is None and (again or (own_doing and not witness.since)):
            self._suspects[witness.id] = _Suspect(replica, max(positions))
        return False

    def may_run(self, choice_id: str, replica: int, *, occupied: bool) -> bool:
        """Whether a choice may be handed to a replica now; ``occupied``: others run there."""
        suspect = self._suspects.get(choice_id)
        if suspect is None:
            home, _ = self._bound.get(choice_id, (replica, 0))
            return home == replica and not self.quarantines(replica)
        return suspect.replica == replica and not occupied

    def quarantines(self, replica: int) -> bool:
        """Whether there are suspects for which this replica is kept free."""
        return any(suspect.replica == replica for suspect in self._suspects.values())

    def settle(self, choice_id: str, replicas: Sequence[int]) -> None:
        """These are all that can serve the choice; if the one it is to stay with is none of them, it moves."""
        if choice_id in self._bound and self._bound[choice_id][0] not in replicas:
            del self._bound[choice_id]
        suspect = self._suspects.get(choice_id)
        if suspect is not None and replicas and suspect.replica not in replicas:
            suspect.replica = replicas[0]

    def passed(self, choice_id: str, emitted: int) -> bool:
        """So many tokens of a choice have arrived; whether it was a suspect and no longer is."""
        self._unlucky.pop(choice_id, None)
        if choice_id in self._bound and emitted > self._bound[choice_id][1]:
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
