"""Random weights: a function of the seed alone, and of a scale that keeps activations sensible."""

import pytest
import torch

from engine import dummy_weights as module
from engine.dummy_weights import dummy_weights
from engine.layers.base import WeightSlot
from engine.parallel import Span


class OneLayer:
    """A model of a matrix, a norm and a bias, which is its only layer as well."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.matrix = torch.full((700, 96), torch.nan, dtype=dtype)
        self.norm, self.bias = torch.full((96,), torch.nan), torch.full((96,), torch.nan)
        self.packed = 0

    def layers(self):
        yield self

    def weights(self):
        yield WeightSlot("matrix.weight", self.matrix)
        yield WeightSlot("norm.weight", self.norm, constant=1.0)
        yield WeightSlot("matrix.bias", self.bias, constant=0.0)

    def pack(self) -> None:
        self.packed += 1


def filled(seed: int, dtype: torch.dtype = torch.float32) -> OneLayer:
    model = OneLayer(dtype)
    assert dummy_weights(model, seed, lambda *_: None) == f"dummy {seed}"
    assert model.packed == 1
    return model


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_they_follow_the_seed_and_not_the_threads(threads, monkeypatch):
    monkeypatch.setattr(module, "STREAM", 1000)
    monkeypatch.setattr(module, "PIECE", 300)
    threads(1)
    expected = filled(3).matrix
    for count in (2, 5):
        threads(count)
        assert torch.equal(filled(3).matrix, expected)
    assert not torch.equal(filled(4).matrix, expected)
    assert len(expected.unique()) > 0.99 * expected.numel(), "a stream is drawn twice"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_their_scale(dtype):
    model = filled(0, dtype)
    assert float(model.matrix.float().mean()) == pytest.approx(0, abs=1e-3)
    assert float(model.matrix.float().std()) == pytest.approx(96**-0.5, rel=0.02)
    assert bool((model.norm == 1).all())
    assert bool((model.bias == 0).all())


class Part(OneLayer):
    """The same matrix, of which a rank has a part."""

    def __init__(self, rows: Span, columns: Span) -> None:
        super().__init__(torch.float32)
        self.part = rows, columns
        self.matrix = torch.full((len(rows), len(columns)), torch.nan)

    def weights(self):
        yield WeightSlot("matrix.weight", self.matrix, part=self.part)


@pytest.mark.parametrize("rows", [Span(0, 350, 700), Span(350, 700, 700), Span(13, 14, 700)])
@pytest.mark.parametrize("columns", [Span(0, 96, 96), Span(32, 64, 96)])
def test_a_part_is_that_of_the_whole(rows, columns, monkeypatch):
    monkeypatch.setattr(module, "STREAM", 10_000)
    monkeypatch.setattr(module, "PIECE", 300)
    part = Part(rows, columns)
    dummy_weights(part, 3, lambda *_: None)
    assert torch.equal(part.matrix, filled(3).matrix[rows.slice, columns.slice])


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        module.in_threads(lambda number: 1 // number, [2, 0, 1])


def test_a_device_draws_whole_weights_itself_as_widely_spread():
    slots = [WeightSlot(name, torch.full((700, 96), torch.nan)) for name in ("first", "first", "second")]
    for slot, seed in zip(slots, (1, 1, 2), strict=True):
        module._draw_there(slot, seed)
    first, again, second = (slot.destination for slot in slots)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert first.abs().max() <= (3 / 96) ** 0.5
    assert first.std().item() == pytest.approx(96**-0.5, rel=0.02)
