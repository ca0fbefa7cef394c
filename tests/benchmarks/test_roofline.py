"""Arithmetic of the roofline, and the program that measures a machine's limits."""

import shutil
from pathlib import Path

import pytest

from benchmarks import roofline
from benchmarks.models import SHAPES
from benchmarks.roofline import Machine, decode_roof, shares

MACHINE = Machine("CPU", 2, "avx2", {"1": 20e9, "2": 31e9}, {"1": 100e9, "2": 195e9}, 150e9, "C")


def test_model_m_has_the_weights_that_its_shape_says() -> None:
    """24 layers of Qwen2.5-0.5B's shape and a tied embedding of 32,000: 386.5 M, without norms and biases."""
    layer = 896 * (896 + 2 * 128 + 896) + 3 * 896 * 4864
    assert SHAPES["M"].multiplied == 24 * layer + 896 * 32000
    assert SHAPES["M"].multiplied / 1e6 == pytest.approx(386.5, abs=0.1)
    assert SHAPES["M"].cache_bytes(4) == 24 * 2 * 2 * 64 * 4


def test_an_untied_input_embedding_is_not_read() -> None:
    assert SHAPES["S"].multiplied == 6 * (4 * 288 * 288 + 3 * 288 * 768) + 288 * 8192


@pytest.mark.parametrize(
    ("dtype", "batch", "rate", "bound"),
    [
        ("float32", 1, 20.0, "bandwidth"),
        ("float32", 8, 157.0, "bandwidth"),
        ("float32", 32, 252.3, "arithmetic"),
        ("bfloat16", 1, 40.0, "bandwidth"),
        ("int8", 1, 79.4, "bandwidth"),
    ],
)
def test_a_step_reads_the_weights_once_and_multiplies_them_by_every_row(
    dtype: str, batch: int, rate: float, bound: str
) -> None:
    roof = decode_roof(MACHINE.limits, SHAPES["M"], dtype, batch, context=160)
    assert roof.tokens_per_second == pytest.approx(rate, rel=0.005)
    assert roof.bound == bound


def test_shares_are_of_the_roof() -> None:
    lines = shares(MACHINE.limits, SHAPES["M"], "float32", 160, {1: 10.0, 8: 0.0})
    assert lines[0] == "batch 1: at most 20.0 tokens/s (bandwidth), 10.0 is 50% of it"
    assert lines[1].endswith("(bandwidth)")


def test_the_better_of_two_measurements_counts() -> None:
    slower = Machine("CPU", 2, "avx2", {"1": 21e9, "2": 11e9}, {"1": 90e9, "2": 199e9}, 160e9, "C")
    better = MACHINE.better(slower)
    assert (better.limits.read, better.limits.compute, better.matmul_flop_per_second) == (31e9, 199e9, 160e9)
    assert better.bytes_per_second["1"] == 21e9


def test_a_machine_is_the_same_while_its_limits_are() -> None:
    assert MACHINE.is_same(MACHINE)
    assert not MACHINE.is_same(Machine("CPU", 2, "avx2", {"2": 25e9}, {"2": 195e9}, 150e9, "C"))
    assert not MACHINE.is_same(Machine("CPU", 4, "avx2", {"2": 31e9}, {"2": 195e9}, 150e9, "C"))


@pytest.mark.skipif(not shutil.which("gcc"), reason="no C compiler here")
def test_the_c_program_measures_something_plausible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "READ_MIB", 64)
    program = roofline.compile_limits(tmp_path)
    assert program
    best, middle = roofline._run(program, 1)
    assert 1e8 < middle.read <= best.read < 1e13
    assert 1e8 < middle.compute <= best.compute < 1e13
