"""A process in which grammars are tried before anybody counts on them: ``python -m engine.grammar_trial``.

A grammar comes from a caller. Compiling one may take long, take much memory, or end the process by a fault of the
library's: here that harms nobody. The parent kills a process that takes too long and starts another.

Standard input brings a ``Setup`` and then a ``Trial`` for each line, standard output a ``Verdict`` for each Trial, all
of them JSON. The end of the input ends the process.
"""

from __future__ import annotations

import re
import resource
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from engine.errors import ModelError
from engine.grammar import Grammar, GrammarError
from engine.grammar_compiler import GrammarCompiler, words_of
from engine.grammar_reasons import place_of_name, readable_gbnf
from engine.grammar_trial_messages import Setup, Trial, Verdict
from engine.linux import die_with, set_process_name
from engine.vocabulary import Vocabulary

STACK = 1 << 20
"""Bytes."""
_PLACE = re.compile(r"^line \d+, column \d+: ")
_UNKNOWN = re.compile(r'unknown name: "(.*)"')
NO_OPTIONS = "%llguidance {}"
"""What a translation begins with; it must not stand within another grammar."""


class _PartError(GrammarError):
    """A part that cannot be compiled, even alone."""

    def __init__(self, error: GrammarError, path: str) -> None:
        super().__init__(str(error))
        self.path = path


def _translated(trial: Trial) -> Grammar:
    if trial.kind != "ebnf":
        return Grammar(trial.kind, trial.source)
    from llguidance.gbnf_to_lark import any_to_lark

    if re.search(r"^\s*%llguidance", trial.source, re.MULTILINE):
        raise GrammarError("the options of %llguidance are the server's")
    try:
        return Grammar("lark", any_to_lark(trial.source).removeprefix(NO_OPTIONS))
    except Exception as error:  # whatever its parser stumbles over
        raise GrammarError(
            f"as GBNF, since it is no Lark with a rule 'start': {readable_gbnf(error, trial.source)}"
        ) from error


def _assembled(compiler: GrammarCompiler, trial: Trial) -> Grammar:
    grammar = _translated(trial)
    rules = []
    for at, source, path in trial.embedded:
        own = Trial(kind="ebnf", source=source)
        try:
            part = _translated(own)
            _compile_alone(compiler, part, own)
        except GrammarError as error:
            raise _PartError(error, path) from None
        rules.append((at, part.rule()))
    for at, rule in reversed(rules):
        grammar = Grammar("lark", grammar.source[:at] + rule + grammar.source[at:])
    return grammar


def _compiler(setup: Setup) -> GrammarCompiler:
    try:
        vocabulary = Vocabulary.load(Path(setup.folder), setup.vocab_size)
    except ModelError as error:
        raise GrammarError(str(error)) from error
    # What is kept counts towards the memory that the next caller's grammar may take, and verdicts are kept elsewhere.
    return GrammarCompiler(vocabulary, setup.eos_token_ids, setup.max_states, most_kept=0)


def _try(compiler: GrammarCompiler, trial: Trial) -> Verdict:
    """Compile it and see what an answer may begin with."""
    try:
        return Verdict(grammar=_tried(compiler, trial))
    except _PartError as error:
        return Verdict(error=str(error), path=error.path)
    except GrammarError as error:
        return Verdict(error=str(error))


def _tried(compiler: GrammarCompiler, trial: Trial) -> Grammar:
    try:
        grammar = _assembled(compiler, trial)
        if trial.around is None or trial.kind == "ebnf":  # a caller's rules must not reach into what is around them
            _compile_alone(compiler, grammar, trial)
        if trial.around is not None:
            grammar = Grammar("lark", grammar.rule().join(trial.around))
            _compile(compiler, grammar)
    except GrammarError:
        _try_parts(compiler, trial)
        raise
    return grammar


def _try_parts(compiler: GrammarCompiler, trial: Trial) -> None:
    """Raises ``_PartError`` for the first that cannot be compiled, where there is one."""
    for path, rule in trial.parts:
        part = Trial(kind="lark", source=f"start: {rule}\n")
        try:
            _compile_alone(compiler, _translated(part), part)
        except GrammarError as error:
            raise _PartError(error, path) from None


def _compile_alone(compiler: GrammarCompiler, grammar: Grammar, trial: Trial) -> None:
    try:
        _compile(compiler, grammar)
    except GrammarError as error:
        # Lines of what was made of the caller's grammar would lead nowhere.
        if trial.kind == "ebnf" and grammar.source == trial.source.removeprefix(NO_OPTIONS):
            raise
        why = _PLACE.sub("", str(error))
        unknown = _UNKNOWN.fullmatch(why) if trial.kind == "ebnf" else None
        raise GrammarError(f"{place_of_name(unknown[1], trial.source) if unknown else ''}{why}") from None


def _compile(compiler: GrammarCompiler, grammar: Grammar) -> None:
    compiler.fill(compiler.matcher(grammar), np.empty(words_of(compiler.vocab_size), np.int32), ())


def _limit_memory(more: int) -> None:
    """Beyond what is in use the process may take so many bytes; what asks for more ends it."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _serve() -> None:
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=Setup)
    die_with(setup.parent)
    answer: Callable[[Trial], Verdict]
    try:
        compiler = _compiler(setup)
    except GrammarError as error:
        unusable = Verdict(error=str(error))
        answer = lambda _: unusable  # noqa: E731
    else:
        answer = lambda trial: _try(compiler, trial)  # noqa: E731
    _limit_memory(setup.memory)
    _say(Verdict())
    while line := sys.stdin.buffer.readline():
        _say(answer(msgspec.json.decode(line, type=Trial)))


def _say(verdict: Verdict) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    set_process_name("penstock-trial")
    # Half the stack of any thread that works on a grammar in an engine: what is nested too deeply ends this process.
    threading.stack_size(STACK)
    serving = threading.Thread(target=_serve, name="trials")
    serving.start()
    serving.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
