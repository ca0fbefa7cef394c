"""Trials: whether a grammar can be compiled, found out in a process that may be killed."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from engine.grammar import Grammar
from engine.grammar_trial_messages import Setup, Trial, Verdict
from engine.messages import EngineInfo
from gateway.errors import InternalError, InvalidRequest, RateLimited
from gateway.head_start import environment
from observability.records import GrammarTried, Record

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "engine.grammar_trial")
"""-P: ``-m`` would put the current folder first on the path, where anything may shadow our packages."""
STARTUP = 60.0
"""Seconds that the process has to import and to read the vocabulary."""
MEMORY = 1 << 30
"""Bytes that compiling one grammar may take."""
LONGEST_LINE = 1 << 27
MOST_KNOWN = 256
"""Verdicts that are kept."""
MOST_WAITING = 64
"""Grammars that may wait to be tried."""


class Trials:
    """One process, started when the first grammar comes, which tries one grammar after another."""

    def __init__(
        self,
        folder: Path,
        *,
        timeout: float = 5.0,
        max_states: int = 50_000,
        record: Callable[[Record], None] = lambda _: None,
        command: tuple[str, ...] = COMMAND,
    ) -> None:
        """``folder`` holds the model. ``timeout``: seconds that a grammar may take; ``max_states`` of its lexer."""
        self._folder, self._timeout, self._max_states = folder, timeout, max_states
        self._record, self._command = record, command
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._under_way: dict[bytes, asyncio.Task[Verdict]] = {}
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None

    async def accept(self, trial: Trial, param: str, info: EngineInfo) -> Grammar:
        """The grammar to be used. ``param`` is the field that it comes from.

        Raises InvalidRequest with the reason why it cannot be compiled, RateLimited where too many wait to be tried.
        """
        verdict = await self._verdict(trial, info)
        if verdict.grammar is None:
            raise InvalidRequest(f"Invalid '{param}': {verdict.error}.", param=param, code="invalid_grammar")
        return verdict.grammar

    async def close(self) -> None:
        """End the process."""
        for task in list(self._under_way.values()):
            task.cancel()
        await self._end()

    async def _verdict(self, trial: Trial, info: EngineInfo) -> Verdict:
        key = hashlib.blake2b(msgspec.json.encode(trial), digest_size=32).digest()
        if (known := self._known.get(key)) is not None:
            self._known.move_to_end(key)
            return known
        task = self._under_way.get(key)
        if task is None:
            if len(self._under_way) >= MOST_WAITING:
                raise RateLimited("Too many grammars are being compiled; try again shortly.", retry_after=1)
            task = self._under_way[key] = asyncio.create_task(self._try(trial, info))
            task.add_done_callback(lambda done: self._note(key, done))
        return await asyncio.shield(task)  # who goes away must not leave an answer unread

    def _note(self, key: bytes, task: asyncio.Task[Verdict]) -> None:
        del self._under_way[key]
        if not task.cancelled() and task.exception() is None:
            self._known[key] = task.result()
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)

    async def _try(self, trial: Trial, info: EngineInfo) -> Verdict:
        async with self._turn:
            began = time.monotonic()
            verdict, outcome = await self._ask(await self._running(info), trial)
            if outcome in ("timeout", "crash"):
                # What others had compiled there, or what else ran, may be the reason: a new process has the last word.
                verdict, outcome = await self._ask(await self._running(info), trial)
            self._record(GrammarTried(outcome=outcome, seconds=time.monotonic() - began))
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
            return Verdict(error="the compiler fails on it, or takes more memory than it is given"), "crash"
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
            memory=MEMORY,
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
