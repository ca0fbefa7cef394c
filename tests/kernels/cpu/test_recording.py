"""A recorded pass, replayed, computes what its calls one by one do; and it is refused where torch has a part in it."""

import pytest
import torch

from kernels.capture import capture, outside
from kernels.ops.last_rows import OP as LAST_ROWS
from kernels.ops.last_rows import LastRowsSpec
from kernels.ops.silu_and_mul import OP as SILU
from kernels.ops.silu_and_mul import SiluAndMulSpec
from kernels.providers.cpu import loader
from kernels.providers.cpu.linear import PackedLinear
from kernels.registry import Kernels, Machine

CPU = Machine.detect(torch.device("cpu"))
ROWS, WIDTH = 40, 32


@pytest.fixture
def layers():
    """A stack of gated layers: x → (rows, 32)."""
    generator, linear = torch.Generator().manual_seed(0), PackedLinear(loader.load())
    activate = Kernels(CPU).select(SILU, SiluAndMulSpec(WIDTH, torch.float32))
    handles = [linear.pack(torch.randn(2 * WIDTH, WIDTH, generator=generator) / 4, None) for _ in range(6)]

    def forward(x: torch.Tensor) -> torch.Tensor:
        for handle in handles:
            x = activate(linear(x, handle))
        return x

    return forward


def nothing(output: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """No tail."""
    return ()


def test_the_tail_of_a_replay_has_a_row_for_each_sequence(layers):
    x, starts = torch.empty(ROWS, WIDTH), torch.zeros(ROWS + 1, dtype=torch.int32)
    last = Kernels(CPU).select(LAST_ROWS, LastRowsSpec(torch.float32))
    linear = PackedLinear(loader.load())
    head = linear.pack(torch.randn(3, WIDTH), None)
    replay = capture(CPU, lambda: layers(x), lambda output: (linear(last(output, starts), head),))
    assert replay is not None
    for lengths in ([ROWS], [3, 1, 9], [1] * ROWS, [2, 2]):
        rows = sum(lengths)
        x[:rows] = torch.randn(rows, WIDTH)
        starts[1 : len(lengths) + 1] = torch.tensor(lengths).cumsum(0)
        expected = linear(layers(x[:rows])[starts[1 : len(lengths) + 1].long() - 1], head)
        replay.run(rows, len(lengths))
        assert torch.equal(replay.tail[0][: len(lengths)], expected)


def test_a_replay_equals_the_calls_for_any_number_of_rows(layers):
    x = torch.empty(ROWS, WIDTH)
    replay = capture(CPU, lambda: layers(x), nothing)
    assert replay is not None
    for rows in (1, 7, ROWS, 2):
        x[:rows] = torch.randn(rows, WIDTH)
        expected = layers(x[:rows])
        replay.run(rows, 1)
        assert torch.equal(replay.output[:rows], expected)


def test_results_share_memory_once_nobody_looks_at_them(layers):
    x = torch.empty(ROWS, WIDTH)
    with loader.load().record() as program:
        output = layers(x)
    assert len(program) == 12
    widths = sorted(memory.nbytes // ROWS // 4 for memory in program._memory)
    assert widths == [WIDTH, WIDTH, 2 * WIDTH]
    assert output.shape == (ROWS, WIDTH)


def test_a_view_keeps_its_memory():
    x, linear = torch.empty(ROWS, WIDTH), PackedLinear(loader.load())
    handle = linear.pack(torch.eye(WIDTH), None)

    def forward() -> torch.Tensor:
        half = linear(x, handle)[:, : WIDTH // 2]  # The tensor itself is gone at once.
        for _ in range(3):
            linear(x, handle)
        return half

    replay = capture(CPU, forward, nothing)
    x.copy_(torch.randn(ROWS, WIDTH))
    replay.run(ROWS, 1)
    assert torch.equal(replay.output, x[:, : WIDTH // 2])


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(lambda y: y + 1, id="arithmetic"),
        pytest.param(lambda y: y.to(torch.bfloat16), id="conversion"),
        pytest.param(lambda y: y.t().contiguous().t(), id="copy"),
        pytest.param(lambda y: y.mul_(2), id="in place"),
        pytest.param(lambda y: y[torch.tensor([0])], id="gather"),
    ],
)
def test_a_pass_that_torch_computes_a_part_of_is_not_captured(layers, step):
    x = torch.zeros(ROWS, WIDTH)
    assert capture(CPU, lambda: step(layers(x)), nothing) is None


@pytest.mark.parametrize("step", [lambda y: y[2:7], lambda y: y.view(-1, 4, 8).transpose(0, 1), lambda y: y.float()])
def test_views_are_captured(layers, step):
    x = torch.zeros(ROWS, WIDTH)
    assert capture(CPU, lambda: step(layers(x)), nothing) is not None


def test_another_device_captures_nothing_yet():
    assert capture(Machine("cuda", "sm_90", "", 1), lambda: torch.zeros(1), nothing) is None


# --- what is no kernel ------------------------------------------------------------------------------------


def clamped(rows, out, x):
    assert len(out) == len(x)
    out[:rows] = x[:rows].clamp(-1, 1)


def test_what_is_no_kernel_is_done_at_its_place_in_every_replay(layers):
    x, starts = torch.empty(ROWS, WIDTH), torch.zeros(ROWS + 1, dtype=torch.int32)
    last = Kernels(CPU).select(LAST_ROWS, LastRowsSpec(torch.float32))
    counts = []

    def noted(rows, out, x):
        counts.append(rows)
        clamped(rows, out, x)

    def forward():
        return layers(outside(CPU, noted, (ROWS, WIDTH), layers(x)))

    replay = capture(CPU, forward, lambda y: (outside(CPU, noted, (ROWS, WIDTH), last(y, starts)),))
    assert replay is not None
    for lengths in ([1], [30, 2, 8], [1] * 7):
        rows, sequences, ends = sum(lengths), len(lengths), torch.tensor(lengths).cumsum(0)
        x[:rows], starts[1 : sequences + 1] = torch.randn(rows, WIDTH), ends
        counts.clear()
        expected = layers(layers(x[:rows]).clamp(-1, 1))
        replay.run(rows, sequences)
        assert torch.equal(replay.output[:rows], expected)
        assert torch.equal(replay.tail[0][:sequences], expected[ends - 1].clamp(-1, 1))
        assert counts == [rows, sequences]


def test_what_is_no_kernel_keeps_no_memory_from_later_results(layers):
    def memories(times: int) -> int:
        y = torch.empty(ROWS, WIDTH)
        with loader.load().record() as program:
            for _ in range(times):
                y = outside(CPU, clamped, (ROWS, WIDTH), layers(y))
        return len(program._memory)

    assert memories(8) == memories(2)


@pytest.mark.parametrize("machine", [CPU, Machine("cuda", "sm_90", "", 1)])
def test_outside_of_a_capture_it_is_done_at_once(machine):
    ids = torch.arange(5, dtype=torch.int32)
    found = outside(machine, clamped, (5,), ids)
    assert found.dtype == torch.int32 and found.tolist() == [0, 1, 1, 1, 1]
