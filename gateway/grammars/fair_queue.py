"""A bounded queue in which many callers take turns: who waits with most makes room for who waits with fewer."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items by caller. Each caller's come out in order, and the callers one after another."""

    def __init__(self, most: int) -> None:
        """``most``: items that may wait."""
        self._most = most
        self._waiting: OrderedDict[str, deque[Item]] = OrderedDict()
        """The caller whose turn is next comes first. None of the queues is empty."""

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, caller: str, item: Item) -> Item | None:
        """Gives the item that has to leave for it where the queue is full: the newest of the caller with most.

        That is ``item`` itself where no other caller has more than this one would.
        """
        out: Item | None = None
        if len(self) >= self._most:
            longest = max(self._waiting, key=lambda each: len(self._waiting[each]))
            if len(self._waiting[longest]) <= len(self._waiting.get(caller, ())) + 1:
                return item
            out = self._waiting[longest].pop()
        self._waiting.setdefault(caller, deque()).append(item)
        return out

    def take(self) -> Item:
        """The next one; whose it was has the last turn from now on. Raises ``KeyError`` where there is none."""
        caller, items = self._waiting.popitem(last=False)
        item = items.popleft()
        if items:
            self._waiting[caller] = items
        return item
