"""The classes that speak to CUDA, on a stand-in for it that computes as late as it may."""

import random

import pytest
import torch
from late_device import LateDevice

from engine.worker.cuda_graphs import CudaCapturing, DecodeGraphs, PieceGraphs
from engine.worker.transfers import CudaTransfers

CUDA = torch.device("cuda")


@pytest.fixture
def device(monkeypatch):
    return LateDevice(monkeypatch)


def test_a_copy_holds_what_was_computed_before_it_and_nothing_of_what_comes_after(device):
    transfers, copies, marks = CudaTransfers(), [], []
    with device:
        state = torch.zeros(4)
        for step in (1.0, 2.0, 3.0):
            state.fill_(step)
            copies.append(transfers.bring(state))
            marks.append(transfers.mark())
    assert all(each.data_ptr() in device.pinned for each in copies)
    assert all(each.isnan().all() for each in copies), "nobody has waited yet"
    for number, wait in enumerate(marks, 1):
        wait()
        assert [each[0].item() for each in copies[:number]] == [1.0, 2.0, 3.0][:number]
        assert all(each.isnan().all() for each in copies[number:])
    assert not device.stalls


@pytest.mark.parametrize("last_first", [False, True])
def test_what_is_computed_before_a_capture_waits_for_what_was_launched_and_is_waited_for(device, last_first):
    capturing, calls = CudaCapturing(CUDA), []
    with device:
        state, seen = torch.zeros(3), torch.zeros(3)

        def run():
            calls.append(device.current)
            seen.add_(state)
            return state * 2

        state.fill_(1.0)
        found, replay = capturing.capture(run)
        main, own = device.streams
        assert calls == [own, own], "once to compile kernels and once to be captured"
        assert device.current is main
        for step in (5.0, 7.0):
            state.fill_(step)
            replay()
        assert calls == [own, own]
    device.finish(last_first=last_first)
    assert found.tolist() == [14.0] * 3
    assert seen.tolist() == [13.0] * 3, "1, 5 and 7 in this order, and what is captured is not computed"


def test_a_step_that_asks_the_host_is_not_captured_and_the_next_one_is(device, caplog):
    with device:
        state = torch.zeros(3)
        asking = True

        def compute(sequences, length):
            return state * 2 if not asking else state * state[0].item()

        graphs = DecodeGraphs(CudaCapturing(CUDA), compute, 8, 64)
        state.fill_(3.0)
        refused = graphs.run(4, 10)
        assert device.current is device.streams[0], "a capture that fails leaves its stream behind"
        asking = False
        found = graphs.run(8, 10)
    device.finish()
    assert refused.tolist() == [9.0] * 3
    assert found.tolist() == [6.0] * 3
    assert [record.getMessage().partition(",")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "cannot capture a graph of 4 sequences of at most 64 tokens"
    ]


@pytest.mark.parametrize("last_first", [False, True])
def test_steps_by_graphs_give_what_they_give_without_and_nobody_waits(device, last_first):
    """Steps of many sizes in one queue, read at its end: each result is copied before the next step overwrites it."""
    draw = random.Random(1)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(5, 5, generator=generator)
    buffer = torch.zeros(16, 5)
    expected, copies = [], []

    def whole(sequences, length):
        return (buffer[:sequences] @ weights).sum(1) + length

    def piece(rows, others):
        return rows @ weights + others, others * 2

    with device:
        capturing, transfers = CudaCapturing(CUDA), CudaTransfers()
        decoding, pieces = DecodeGraphs(capturing, whole, 16, 64), PieceGraphs(capturing, 100, 2)
    for _ in range(40):
        rows = draw.randint(1, 16) if draw.random() < 0.5 else draw.randint(17, 120)
        x = torch.randn(rows, 5, generator=generator)
        if rows <= 16:
            expected.append(((x @ weights).sum(1) + 64,))
        else:
            first = piece(x, x + 1)
            expected.append(piece(*first))
        with device:
            if rows <= 16:
                buffer[:rows].copy_(x, non_blocking=True)
                found = (decoding.run(decoding.sequences(rows), 10)[:rows],)
            else:
                found = pieces.run(1, piece, pieces.run(0, piece, (x, x + 1)))
            copies.append([transfers.bring(each) for each in found])
    device.finish(last_first=last_first)
    assert not device.stalls
    for one, other in zip(copies, expected, strict=True):
        torch.testing.assert_close(one, list(other))
    assert len({id(graph.pool) for graph in device.graphs}) == 1
    assert len(device.graphs) < 20
