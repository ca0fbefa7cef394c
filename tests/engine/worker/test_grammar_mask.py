"""Masks of a step: which sequences are ready, which come later, and which cannot go on."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import numpy as np
import pytest

from engine.batch import SampleRequest
from engine.demo_model import PATH
from engine.grammar import Grammar, GrammarError
from engine.grammar_compiler import GrammarCompiler
from engine.sampling_params import SamplingParams
from engine.token_pieces import load_backend
from engine.vocabulary import Vocabulary
from engine.worker.grammar_mask import LOST, GrammarMasks

EOS = 2
VOCAB = 1536
DIGITS = Grammar("regex", "[0-9]{3}")


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(Vocabulary.load(PATH, VOCAB), [EOS], 50_000)


def encode(text: str) -> list[int]:
    return load_backend(PATH).encode(text, add_special_tokens=False).ids


def request(
    sequence: int, output: list[int], *, grammar: Grammar | None = DIGITS, ahead: bool = False, max_tokens: int = 50
) -> SampleRequest:
    return SampleRequest(
        row=0,
        params=SamplingParams(max_tokens=max_tokens, stop_token_ids=(EOS,)),
        seed=0,
        choice=0,
        position=len(output),
        prompt_ids=None,
        output_ids=None if ahead else np.array(output, np.int32),
        sequence=sequence,
        constrained=grammar is not None,
        grammar=None if ahead else grammar,
    )


def built(masks: GrammarMasks) -> None:
    wait([each.building for each in masks._known.values() if each.building is not None], 60)


def allowed(bits) -> set[int]:
    return {token for token in range(VOCAB) if bits[token // 32] >> token % 32 & 1}


def test_a_sequence_from_its_grammar_to_its_end(compiler):
    masks = GrammarMasks(lambda: compiler, VOCAB, 4)
    output: list[int] = []
    for ahead, text in [(False, "4"), (True, "0"), (True, "7")]:
        asked = request(9, output, ahead=ahead)
        masks.expect([asked])
        built(masks)
        found = masks.collect([asked], alone=True)
        assert not found.late and not found.refusals
        (token,) = encode(text)
        assert token in allowed(found.bits[0]) and EOS not in allowed(found.bits[0])
        masks.advance([asked], [token])
        output.append(token)
    asked = request(9, output, ahead=True)
    assert allowed(masks.collect([asked], alone=True).bits[0]) == {EOS}
    masks.advance([asked], [EOS])
    assert not masks._known and len(masks._free) == 8


def test_free_text_beside_it_is_not_masked(compiler):
    masks = GrammarMasks(lambda: compiler, VOCAB, 4)
    both = [request(1, []), request(2, [], grammar=None)]
    masks.expect(both)
    built(masks)
    bits = masks.collect(both, alone=True).bits
    assert (bits[1] == -1).all() and len(allowed(bits[0])) < 1000


def test_what_is_not_compiled_is_late_and_holds_nobody_up(compiler):
    goes_on = threading.Event()

    def load() -> GrammarCompiler:
        assert goes_on.wait(60)
        return compiler

    masks = GrammarMasks(load, VOCAB, 4)
    masks.expect([request(1, [])])
    assert masks.collect([request(1, [])], alone=False).late == {0}
    masks.advance([request(1, [])], [-1])
    goes_on.set()
    built(masks)
    assert masks.collect([request(1, [])], alone=False).late == set()


def test_a_sequence_that_is_not_known_is_late_until_its_grammar_comes_again(compiler):
    masks = GrammarMasks(lambda: compiler, VOCAB, 4)
    known = encode("12")
    lost = request(5, known, ahead=True)
    masks.expect([lost])
    assert masks.collect([lost], alone=False).late == {0}
    again = request(5, known)
    masks.expect([again])
    built(masks)
    found = masks.collect([again], alone=False)
    assert not found.late and encode("3")[0] in allowed(found.bits[0]) and EOS not in allowed(found.bits[0])


def test_sequences_that_left_make_room(compiler):
    masks = GrammarMasks(lambda: compiler, VOCAB, 2)
    for sequence in range(20):
        masks.expect([request(sequence, [])])
        built(masks)
        assert masks.collect([request(sequence, [])], alone=True).late == set()
    assert len(masks._known) == 4


@pytest.mark.parametrize(
    ("grammar", "output", "reason"),
    [
        (Grammar("regex", "("), "", "by its grammar"),
        (DIGITS, "12a", "by its grammar"),
        (DIGITS, "1234", "by its grammar"),
    ],
)
def test_what_cannot_go_on_says_why(compiler, grammar, output, reason):
    masks = GrammarMasks(lambda: compiler, VOCAB, 4)
    asked = [request(1, []), request(2, encode(output), grammar=grammar)]
    masks.expect(asked)
    built(masks)
    found = masks.collect(asked, alone=True)
    assert found.refusals.keys() == {1} and reason in found.refusals[1]
    assert 2 not in masks._known


def test_a_compiler_that_cannot_be_made_fails_who_asked_for_it():
    def load() -> GrammarCompiler:
        raise GrammarError("the model has no tokenizer")

    masks = GrammarMasks(load, VOCAB, 4)
    masks.expect([request(1, [])])
    built(masks)
    assert "no tokenizer" in masks.collect([request(1, [])], alone=True).refusals[0]


def test_a_fault_beside_the_step_fails_its_sequences_and_not_the_engine(compiler, monkeypatch):
    masks = GrammarMasks(lambda: compiler, VOCAB, 4)
    first = request(1, [])
    masks.expect([first])
    built(masks)
    masks.collect([first], alone=True)

    class Panicking:
        def consume_token_par(self, matchers):
            raise BaseException("index out of bounds")

    monkeypatch.setitem(masks.__dict__, "_executor", Panicking())
    (token,) = encode("1")
    masks.advance([first], [token])
    assert masks.collect([request(1, [token], ahead=True)], alone=True).refusals == {0: LOST}


def test_idle_time_is_used_once_for_the_vocabulary(compiler):
    loads: list[int] = []

    def load() -> GrammarCompiler:
        loads.append(1)
        return compiler

    masks = GrammarMasks(load, VOCAB, 4)
    assert not masks.use_idle_time() and not masks.use_idle_time()
    masks.expect([request(1, [])])
    built(masks)
    assert masks.collect([request(1, [])], alone=True).late == set() and loads == [1]
