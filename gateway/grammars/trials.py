"""Trials: whether a grammar can be compiled, found out in a process that may be killed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from engine.grammar import Grammar
from engine.grammar_trial_messages import Setup, Trial, Verdict
from engine.messages import EngineInfo
from gateway.errors import InternalError, InvalidRequest, RateLimited
from gateway.grammars.fair_queue import FairQueue
from gateway.head_start import environment
from observability.records import GrammarTried, Record

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "engine.grammar_trial")
"""-P: ``-m`` would put the current folder first on the path, where anything may shadow our packages."""
STARTUP = 60.0
"""Seconds that the process has to import and to read the vocabulary."""
LONGEST_WAIT = STARTUP + 30.0
"""Seconds until a grammar's turn; after more it is not tried any more."""
LONGEST_LINE = 1 << 27
MOST_KNOWN = 256
"""Verdicts that are kept."""
DOUBTFUL = 60.0
"""Seconds for which a verdict is kept that says how a trial went, not what is wrong: a busy machine may be to blame."""


@dataclass(frozen=True, slots=True)
class Known:
    """A verdict, and until when it counts, on the monotonic clock."""

    verdict: Verdict
    until: float = math.inf


@dataclass(frozen=True, slots=True)
class Waiting:
    """A grammar that somebody wants to be tried."""

    caller: str
    key: bytes
    trial: Trial
    verdict: asyncio.Future[Verdict]
    since: float = field(default_factory=time.monotonic)


class Trials:
    """One process, started when the first grammar comes, which tries one grammar after another.

    Callers take turns: one of them that brings many has the others wait for one of these at most.
    """

    def __init__(
        self,
        folder: Path,
        *,
        timeout: float = 5.0,
        max_states: int = 50_000,
        memory: int = 1 << 30,
        most_waiting: int = 64,
        record: Callable[[Record], None] = lambda _: None,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        """``folder`` holds the model.

        ``timeout``: seconds that a grammar may take, ``memory``: bytes; ``max_states`` of its lexer. ``most_waiting``:
        grammars that may wait to be tried.
        """
        self._folder, self._timeout, self._max_states, self._memory = folder, timeout, max_states, memory
        self._record, self._command = record, command
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._queue: FairQueue[Waiting] = FairQueue(most_waiting)
        self._asked: dict[tuple[str, bytes], Waiting] = {}
        """What waits or is being tried, by caller and grammar: who asks again takes no second place."""
        self._working: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def accept(self, trial: Trial, param: str, info: EngineInfo, caller: str) -> Grammar:
        """The grammar to be used. ``param`` is the field that it comes from; ``caller`` is who takes a turn for it.

        Raises InvalidRequest with the reason why it cannot be compiled, RateLimited where too many wait to be tried.
        """
        verdict = await self._verdict(trial, info, caller)
        if verdict.grammar is None:
            place = f"{param}{verdict.path}"
            raise InvalidRequest(f"Invalid '{place}': {verdict.error}.", param=place, code="invalid_grammar")
        return verdict.grammar

    async def close(self) -> None:
        """End the process."""
        if self._working is not None:
            self._working.cancel()
        for waiting in self._asked.values():
            waiting.verdict.cancel()
        await self._end()

    async def _verdict(self, trial: Trial, info: EngineInfo, caller: str) -> Verdict:
        key = hashlib.blake2b(msgspec.json.encode(trial), digest_size=32).digest()
        if (known := self._lookup(key)) is not None:
            return known
        if (waiting := self._asked.get((caller, key))) is None:
            waiting = self._enqueue(Waiting(caller, key, trial, asyncio.get_running_loop().create_future()))
            if self._working is None or self._working.done():
                self._working = asyncio.create_task(self._work(info))
        return await asyncio.shield(waiting.verdict)  # others may wait for it as well

    def _enqueue(self, waiting: Waiting) -> Waiting:
        self._asked[waiting.caller, waiting.key] = waiting
        if (out := self._queue.put(waiting.caller, waiting)) is not None:
            text = "Too many grammars are waiting to be compiled (--max-queue-grammars); try again shortly."
            self._fail(out, RateLimited(text, retry_after=1))
        return waiting

    def _fail(self, waiting: Waiting, error: Exception) -> None:
        del self._asked[waiting.caller, waiting.key]
        waiting.verdict.set_exception(error)
        waiting.verdict.exception()  # there may be nobody left to hear of it

    def _lookup(self, key: bytes) -> Verdict | None:
        known = self._known.get(key)
        if known is None or known.until < time.monotonic():
            return None
        self._known.move_to_end(key)
        return known.verdict

    async def _work(self, info: EngineInfo) -> None:
        """Tries what waits until nothing does. Who goes away in the middle leaves no answer unread."""
        while self._queue:
            waiting = self._queue.take()
            if time.monotonic() - waiting.since > LONGEST_WAIT:
                text = f"Other grammars took all of {LONGEST_WAIT:g} s to compile; try again shortly."
                self._fail(waiting, RateLimited(text, retry_after=5))
                continue
            try:
                verdict = self._lookup(waiting.key) or await self._try(waiting.key, waiting.trial, info)
            except Exception as error:
                self._fail(waiting, error)
            else:
                del self._asked[waiting.caller, waiting.key]
                waiting.verdict.set_result(verdict)

    async def _try(self, key: bytes, trial: Trial, info: EngineInfo) -> Verdict:
        began = time.monotonic()
        verdict, outcome = await self._ask(await self._running(info), trial)
        if outcome in ("timeout", "crash"):
            # What others had compiled there, or what else ran, may be the reason: a new process has the last word.
            verdict, outcome = await self._ask(await self._running(info), trial)
        now = time.monotonic()
        self._record(GrammarTried(outcome=outcome, seconds=now - began))
        self._known[key] = Known(verdict, now + DOUBTFUL) if outcome in ("timeout", "crash") else Known(verdict)
        if len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        return verdict

    async def _ask(self, process: asyncio.subprocess.Process, trial: Trial) -> tuple[Verdict, str]:
        try:
            async with asyncio.timeout(self._timeout):
                verdict = await _exchange(process, trial)
        except TimeoutError:
            await self._end()
            limit = f"it takes longer to compile than the {self._timeout:g} s allowed here (--grammar-timeout)"
            return Verdict(error=limit), "timeout"
        except BaseException:
            await self._end()
            raise
        if verdict is None:
            await self._end()
            text = "the compiler fails on it, or takes more memory than it is given (--grammar-memory)"
            return Verdict(error=text), "crash"
        return verdict, "ok" if verdict.error is None else "refused"

    async def _running(self, info: EngineInfo) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        pipe = asyncio.subprocess.PIPE
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=pipe,
            stdout=pipe,
            limit=LONGEST_LINE,
            env=environment(),
            start_new_session=True,
        )
        setup = Setup(
            parent=os.getpid(),
            folder=str(self._folder),
            vocab_size=info.vocab_size,
            eos_token_ids=info.eos_token_ids,
            max_states=self._max_states,
            memory=self._memory,
        )
        try:
            async with asyncio.timeout(STARTUP):
                started = await _exchange(process, setup)
        except BaseException:
            await self._end()
            raise
        if started is None:
            await self._end()
            logger.error("the process that tries grammars could not be started")
            raise InternalError("The server cannot try this request's grammar.")
        return process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _exchange(process: asyncio.subprocess.Process, message: Setup | Trial) -> Verdict | None:
    """None where the process has died of it."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(msgspec.json.encode(message) + b"\n")
        await process.stdin.drain()
        line = await process.stdout.readline()
    except (BrokenPipeError, ConnectionResetError):
        return None
    return msgspec.json.decode(line, type=Verdict) if line.endswith(b"\n") else None
