"""Steps of decoding by graphs: their sizes, and the host's side of them with a stand-in for the device."""

import io
import logging
import random

import pytest
import torch
import tqdm

from engine.config import EngineConfig
from engine.engine import Engine
from engine.executor.uniproc import UniprocExecutor
from engine.messages import Start
from engine.models.base import run_at_once
from engine.sampling_params import SamplingParams
from engine.worker import worker as worker_module
from engine.worker.cuda_graphs import DecodeGraphs, PieceGraphs
from kernels.registry import Kernels, Machine


class Remembering:
    """In place of a GPU: a replay computes again, and into the memory of the first time."""

    def __init__(self, refused=()):
        """``refused``: the captures that fail, by number."""
        self.captured = self.replayed = 0
        self.refused = refused

    def capture(self, run):
        self.captured += 1
        found = run()
        if self.captured in self.refused:
            raise torch.OutOfMemoryError("CUDA out of memory.\nAnd much more.")

        def replay():
            self.replayed += 1
            for kept, new in zip(tensors(found), tensors(run()), strict=True):
                kept.copy_(new)

        return found, replay


def tensors(found):
    """Of a step, hidden states and what is drawn; of a piece of one, a list."""
    return (found[0], *found[1]) if isinstance(found, tuple) else found


def graphs(most=256, longest=5000, refused=()):
    calls = []

    class Capturing:
        def capture(self, run):
            found = run()
            if found in refused:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            return found, lambda: calls.append("replayed")

    return DecodeGraphs(Capturing(), lambda *size: calls.append(size) or size, most, longest), calls


def test_there_are_graphs_of_few_sizes():
    found = graphs(100)[0]
    sizes = [found.sequences(wanted) for wanted in range(1, 101)]
    assert sorted(set(sizes)) == [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 96, 100]
    assert all(size >= wanted for wanted, size in enumerate(sizes, 1))


def test_a_graph_is_captured_once_for_each_size_and_length():
    found, calls = graphs()
    assert found.run(8, 1) == found.run(8, 1024) == (8, 1024)
    assert found.run(8, 1025) == (8, 2048)
    assert found.run(8, 4097) == (8, 5000), "none is longer than what is served"
    assert found.run(16, 1) == (16, 1024)
    assert calls == [
        (8, 1024), "replayed", "replayed", (8, 2048), "replayed", (8, 5000), "replayed", (16, 1024), "replayed",
    ]  # fmt: skip


def test_what_cannot_be_captured_is_computed_and_told_of_once(caplog):
    found, calls = graphs(refused=[(8, 1024)])
    assert found.run(8, 1) == found.run(8, 2) == (8, 1024)
    assert found.run(16, 1) == (16, 1024)
    assert calls == [(8, 1024), (8, 1024), (8, 1024), (16, 1024), "replayed"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning == (
        "cannot capture a graph of 8 sequences of at most 1024 tokens, so such steps are launched kernel by kernel:"
        " operation not permitted when stream is capturing"
    )


def test_other_errors_of_a_capture_are_not_hidden():
    class Broken:
        def capture(self, run):
            raise TypeError("a mistake of ours")

    with pytest.raises(TypeError, match="a mistake of ours"):
        DecodeGraphs(Broken(), lambda *size: size, 8, 1024).run(8, 1)


def test_a_bar_shows_how_many_graphs_there_are(monkeypatch):
    shown = []

    class Bar(tqdm.tqdm):
        def __init__(self, **options):
            assert options["disable"] is None, "drawn on a terminal alone"
            super().__init__(**options | {"disable": False, "file": io.StringIO()})

        monitor_interval = 0  # No thread.

        def __exit__(self, *error):
            shown.append((self.desc, self.n, self.total))
            super().__exit__(*error)

    monkeypatch.setattr(tqdm, "tqdm", Bar)
    found, _ = graphs(most=8, longest=2048)
    for sequences in (1, 8, 1):
        found.run(sequences, 5)
    assert shown == [
        ("capturing a graph of 1 sequences of at most 1024 tokens", 1, 8),
        ("capturing a graph of 8 sequences of at most 1024 tokens", 2, 8),
    ]


class Doubling:
    """A model of three pieces, each of which adds to a sum in place."""

    def __init__(self):
        self.rows = []

    def step(self, run, inputs):
        total, other = run(0, lambda ids: (ids[:, None].float().repeat(1, 2), ids[:, None] + 1.0), (inputs,))
        for place in (1, 2):
            total, other = run(place, self.piece, (total, other * 3.0))
        return total + other

    def piece(self, total, other):
        self.rows.append(len(total))
        total = total.add_(other)
        return total, other - 1.0


@pytest.mark.parametrize("refused", [(), (2,), (1, 3)])
def test_pieces_give_what_the_model_gives(refused, caplog):
    device, model = Remembering(refused), Doubling()
    pieces = PieceGraphs(device, 100, 3)
    draw = random.Random(1)
    for tokens in (5, 16, 3, 40, 64, 65, 100, 90, 101, 33):
        inputs = torch.tensor([draw.randrange(50) for _ in range(tokens)])
        expected = model.step(run_at_once, inputs)
        assert torch.equal(model.step(pieces.run, inputs), expected)
    assert {16, 64, 100} & set(model.rows)
    assert device.replayed > device.captured > 3
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == len(refused)


def answers(folder, monkeypatch, capturing, batched_tokens, **settings):
    """Tokens with their log-probabilities of requests that come and end at different times, and the cache then."""
    monkeypatch.setattr(worker_module, "choose_capturing", lambda *_: capturing)
    config = EngineConfig(
        model=str(folder),
        num_threads=1,
        block_size=4,
        max_num_seqs=13,
        max_num_batched_tokens=batched_tokens,
        kv_cache_memory=1 << 20,
        max_model_len=96,
        **settings,
    )
    executor = UniprocExecutor(config, lambda *_: None)
    facts = executor.load()
    engine = Engine(config, executor, facts, executor.initialize_cache())
    draw, found = random.Random(5), {}
    for wave in (1, 11, 3, 6):
        for number in range(wave):
            params = SamplingParams(
                max_tokens=draw.randrange(2, 12),
                temperature=draw.choice([0.0, 0.9]),
                top_p=0.9,
                presence_penalty=draw.choice([0.0, 0.0, 0.5]),
                logprobs=draw.choice([None, 2]),
            )
            prompt = [draw.randrange(facts.vocab_size) for _ in range(draw.randrange(1, 20))]
            engine.start(Start(id=f"{wave}-{number}", attempt=0, prompt=prompt, params=params, seed=number))
        while engine.is_busy:
            for output in engine.step().outputs:
                assert output.failure is None
                found.setdefault(output.id, []).append((output.ids, output.logprobs))
    assert len(found) == 21
    layers = [part for layer in executor._worker._cache.layers for part in (layer.keys, layer.values)]
    return found, layers


@pytest.mark.parametrize("batched_tokens", [7, 64])
def test_padded_steps_give_the_very_answers_of_others(make_checkpoint, monkeypatch, caplog, batched_tokens):
    caplog.set_level(logging.INFO)
    folder = make_checkpoint("Qwen3ForCausalLM")
    device = Remembering()
    plain, plain_cache = answers(folder, monkeypatch, None, batched_tokens)
    padded, padded_cache = answers(folder, monkeypatch, device, batched_tokens)
    assert padded == plain
    assert device.replayed > device.captured > 2
    if batched_tokens == 64:
        told = [record.getMessage() for record in caplog.records]
        assert any("captured a graph of 32 tokens, piece 2 in" in each for each in told), told
        overlapping, _ = answers(folder, monkeypatch, Remembering(refused=(1, 3, 4)), batched_tokens, overlap="on")
        assert overlapping == plain
    for one, other in zip(padded_cache, plain_cache, strict=True):
        assert len(one) == len(other) + 1, "rows that are left over have a block of their own"
        assert torch.equal(one[:-1], other)
    assert padded_cache[0][-1].any(), "there were such rows"


def test_steps_are_captured_where_they_can_be(monkeypatch):
    monkeypatch.setattr(worker_module, "CudaCapturing", lambda device: f"graphs on {device}")
    gpu = torch.device("cuda", 0)

    def chosen(device=gpu, references=(), **config):
        kernels = Kernels(Machine("cuda", "sm_90", "a GPU", 1))
        for op in ("paged_attention", "sample_tokens"):
            kernels._chosen[op, ""] = "torch 2" if op in references else "triton 1"
        return worker_module.choose_capturing(EngineConfig(model="m", **config), device, kernels)

    assert chosen() == "graphs on cuda:0"
    assert chosen(device=torch.device("cpu")) is None
    assert chosen(cuda_graphs=False) is None
    assert chosen(tensor_parallel_size=2) is None
    assert chosen(references=["sample_tokens"]) is None
