"""Who may come in: API keys, the concurrency of each, and the bounded queue. What is too much is answered at once."""

from __future__ import annotations

import hashlib
import hmac
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import yaml

from gateway.errors import ConcurrencyExceeded, InvalidAPIKey, RateLimited

DEFAULT_TENANT = "default"
CHALLENGE = {"www-authenticate": "Bearer"}
SHORTEST_WAIT, GUESSED_WAIT, LONGEST_WAIT = 1.0, 5.0, 120.0
"""Seconds. Clients that are told to wait for more than 120 give up."""
JITTER = 0.25
"""Share by which a wait is made longer, at random and at most: who is refused together must not return together."""


class KeysFileError(Exception):
    """A file of API keys that cannot be used; readable by the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A holder of an API key. Its name is the label in metrics and logs."""

    name: str = DEFAULT_TENANT
    max_concurrency: int | None = None
    """Most requests at a time; None for no limit."""


@dataclass(frozen=True, slots=True)
class Key:
    """The hash of a key and whose it is. The key itself is not held."""

    sha256: bytes
    tenant: Tenant


class Keys:
    """The keys that are let in. Without any, everybody is the tenant ``default``."""

    def __init__(self, keys: Sequence[Key] = ()) -> None:
        self._keys = tuple(keys)

    @classmethod
    def load(cls, plain: Sequence[str] = (), file: Path | None = None) -> Self:
        """Keys given as they are belong to the tenant ``default``. Raises ``KeysFileError``."""
        keys = [Key(_digest(key), Tenant()) for key in plain]
        return cls([*keys, *(read_keys(file) if file else [])])

    def __bool__(self) -> bool:
        return bool(self._keys)

    def authenticate(self, authorization: str | None) -> Key:
        """By whose key the request comes, by its ``Authorization`` header. Raises ``InvalidAPIKey``."""
        if not self._keys:
            return Key(b"", Tenant())
        scheme, _, presented = (authorization or "").partition(" ")
        presented = presented.strip()
        if scheme.lower() != "bearer" or not presented:
            raise InvalidAPIKey(
                "You did not provide an API key. Send it in the header 'Authorization: Bearer KEY'.", headers=CHALLENGE
            )
        digest = _digest(presented)
        found = None
        for key in self._keys:
            # Every key is compared, each in constant time, so that the time says nothing of which one it was.
            if hmac.compare_digest(digest, key.sha256):
                found = key
        if found is None:
            raise InvalidAPIKey("Incorrect API key provided.", headers=CHALLENGE)
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def read_keys(file: Path) -> list[Key]:
    """A YAML list of ``{name, sha256, max_concurrency}``; the last may be left out.

    Raises:
        KeysFileError: naming the file and the entry that is wrong.
    """
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise KeysFileError(f"{file}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KeysFileError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list) or not entries:
        raise KeysFileError(f"{file}: must be a list of entries with name and sha256; make one with penstock hash-key")
    keys = [_key(entry, f"{file}: entry {number}") for number, entry in enumerate(entries, 1)]
    twice = [digest for digest, count in Counter(key.sha256 for key in keys).items() if count > 1]
    if twice:
        raise KeysFileError(f"{file}: two entries have the sha256 {twice[0].hex()}")
    limits: dict[str, int | None] = {}
    for key in keys:
        if limits.setdefault(key.tenant.name, key.tenant.max_concurrency) != key.tenant.max_concurrency:
            raise KeysFileError(f"{file}: the entries of {key.tenant.name} differ in max_concurrency, which they share")
    return keys


def _key(entry: Any, where: str) -> Key:
    if not isinstance(entry, dict):
        raise KeysFileError(f"{where}: must be a mapping with name and sha256")
    unknown = entry.keys() - {"name", "sha256", "max_concurrency"}
    if unknown:
        raise KeysFileError(f"{where}: {min(map(str, unknown))} is not known; known are name, sha256, max_concurrency")
    name, digest, concurrency = entry.get("name"), entry.get("sha256"), entry.get("max_concurrency")
    if not isinstance(name, str) or not name or len(name) > 64 or not name.isprintable():
        raise KeysFileError(f"{where}: name must be text of 1 to 64 characters")
    if not isinstance(digest, str) or len(digest) != 64 or set(digest.lower()) - set("0123456789abcdef"):
        raise KeysFileError(f"{where}: sha256 must be 64 hexadecimal digits; make it with penstock hash-key")
    if concurrency is not None and (type(concurrency) is not int or concurrency < 1):
        raise KeysFileError(f"{where}: max_concurrency must be a whole number of at least 1")
    return Key(bytes.fromhex(digest), Tenant(name, concurrency))


class Queue(Protocol):
    """What waits for the engine."""

    @property
    def queued_requests(self) -> int: ...

    @property
    def queued_tokens(self) -> int: ...


class Admission:
    """Counts what is inside, and turns away what would make the queue or a key's share too long."""

    def __init__(
        self,
        queue: Queue,
        *,
        max_queue_requests: int = 256,
        max_queue_tokens: int = 262_144,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """``uniform`` draws from 0 to 1."""
        self._queue = queue
        self._max_requests = max_queue_requests
        self._max_tokens = max_queue_tokens
        self._clock = clock
        self._uniform = uniform
        self._inside: Counter[str] = Counter()
        self._preparing = 0
        """Admitted and not yet submitted: their prompts are being rendered and tokenized."""
        self._drain = DrainRate(clock)
        self._mean_duration = 0.0

    def enter(self, tenant: Tenant) -> Ticket:
        """Let a request in; leave the ticket's ``with`` block when it has ended.

        Raises:
            RateLimited: the key has as many requests inside as it may, or the queue is full.
        """
        limit = tenant.max_concurrency
        if limit is not None and self._inside[tenant.name] >= limit:
            raise ConcurrencyExceeded(
                f"This API key may have {limit} request(s) at a time, and has. Please try again when one has ended.",
                retry_after=self._wait(self._mean_duration / limit),
            )
        waiting = self._queue.queued_requests + self._preparing
        if waiting >= self._max_requests:
            raise RateLimited(
                f"The server is busy: {waiting} requests are waiting, and {self._max_requests} may "
                "(--max-queue-requests). Please try again later.",
                retry_after=self._wait(self._drain.time_to_drain(waiting)),
            )
        return Ticket(self, tenant)

    def enter_again(self, tenant: str) -> Ticket:
        """For a request that an earlier process let in: it has its place, also where that is one too many."""
        ticket = Ticket(self, Tenant(tenant))
        ticket.submitted()
        return ticket

    def check_tokens(self, tokens: int) -> None:
        """Raises ``RateLimited`` where so many prompt tokens more would be too many. One request alone never is."""
        waiting = self._queue.queued_tokens
        if waiting and waiting + tokens > self._max_tokens:
            raise RateLimited(
                f"The server is busy: {waiting} prompt tokens are waiting, and with the {tokens} of this request they "
                f"would be more than {self._max_tokens} (--max-queue-tokens). Please try again later.",
                retry_after=self._wait(self._drain.time_to_drain(self._queue.queued_requests)),
            )

    def remaining(self, tenant: Tenant) -> int | None:
        """How many more requests the key may have inside; None for no limit."""
        limit = tenant.max_concurrency
        return None if limit is None else max(limit - self._inside[tenant.name], 0)

    def _wait(self, seconds: float) -> float:
        """What a client is told that should wait for about so long: within the bounds, and spread."""
        base = min(max(seconds, SHORTEST_WAIT), LONGEST_WAIT / (1 + JITTER))
        return base * (1 + JITTER * self._uniform())

    def _entered(self, tenant: Tenant) -> None:
        self._inside[tenant.name] += 1
        self._preparing += 1

    def _submitted(self) -> None:
        self._preparing -= 1
        self._drain.arrived(self._queue.queued_requests + self._preparing)

    def _left(self, tenant: Tenant, *, submitted: bool, duration: float) -> None:
        self._inside[tenant.name] -= 1
        if not self._inside[tenant.name]:
            del self._inside[tenant.name]
        if not submitted:
            self._preparing -= 1
            return
        self._mean_duration += 0.1 * (duration - self._mean_duration) if self._mean_duration else duration


class Ticket:
    """One request's place inside."""

    def __init__(self, admission: Admission, tenant: Tenant) -> None:
        self._admission = admission
        self._tenant = tenant
        self._submitted = False
        self._open = True
        self._entered_at = admission._clock()
        admission._entered(tenant)

    def submitted(self) -> None:
        """From now on the request is counted by the engine's queue."""
        if not self._submitted:
            self._submitted = True
            self._admission._submitted()

    def leave(self) -> None:
        """Idempotent."""
        if self._open:
            self._open = False
            duration = self._admission._clock() - self._entered_at
            self._admission._left(self._tenant, submitted=self._submitted, duration=duration)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()


class DrainRate:
    """How fast the queue has been moving, of late and while there was one."""

    MEMORY = 30.0
    """Seconds after which what was seen counts a third."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._arrived = 0
        self._seen = (clock(), 0, 0)
        """When the queue was last looked at, how many of all that arrived had left it, and how many were waiting."""
        self._busy = 0.0
        self._left = 0.0

    def arrived(self, waiting: int) -> None:
        """One more has come, and now so many are waiting."""
        self._arrived += 1
        self._look(waiting)

    def time_to_drain(self, waiting: int) -> float:
        """Seconds until those who are waiting have left; a guess where nobody has been seen to leave."""
        self._look(waiting)
        return waiting * self._busy / self._left if self._left else max(self._busy, GUESSED_WAIT)

    def _look(self, waiting: int) -> None:
        then, before, were_waiting = self._seen
        now, left = self._clock(), max(self._arrived - waiting, 0)
        self._seen = (now, left, waiting)
        # Where nobody waits any more, nobody knows since when: the time says nothing.
        if were_waiting and waiting:
            fading = math.exp((then - now) / self.MEMORY)
            self._busy = self._busy * fading + now - then
            self._left = self._left * fading + max(left - before, 0)
