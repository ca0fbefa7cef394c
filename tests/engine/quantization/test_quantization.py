"""Quantizing while loading: error bounds, what is refused, and what a worker holds and tells."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file

from engine.config import EngineConfig
from engine.errors import ConfigurationError, ModelError
from engine.quantization import find_quantization, quantization_names
from engine.worker.worker import Worker
from kernels.ops.linear import GROUP, Int4Weight, Int8Weight
from kernels.registry import Kernels, Machine

EVERYTHING = slice(None)
SMALLEST = 2.0**-149
"""Of the numbers that float32 has; a scale below it is none."""
CPU = Machine.detect(torch.device("cpu"))


def quantizer(name):
    found = find_quantization(name, Kernels(CPU))
    assert found is not None
    return found


def matrices(multiple: int, greatest: float):
    """Float32 matrices with a number of columns that is a multiple."""
    numbers = st.floats(-greatest, greatest, width=32)
    shapes = st.tuples(st.integers(1, 9), st.integers(1, 3).map(lambda groups: groups * multiple))
    return shapes.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=numbers)).map(torch.from_numpy)


@settings(max_examples=150)
@given(matrices(7, 2.0**100))
def test_int8_is_off_by_half_a_step_at_most(weight):
    found = quantizer("int8").quantize(weight, "linear")
    assert isinstance(found, Int8Weight)
    largest = weight.abs().amax(1)
    assert torch.equal(found.scales, largest / 127)
    assert int(found.values.min()) >= -127
    # Beyond half a step there is the rounding of float32 alone, of the scale to a multiple of SMALLEST too.
    room = found.scales[:, None] * 0.5 * (1 + 2**-14) + 127 * SMALLEST
    assert bool(((found.dense(EVERYTHING) - weight).abs() <= room).all())


@settings(max_examples=150)
@given(matrices(GROUP, 2.0**14))
def test_int4_is_off_by_three_quarters_of_a_step_at_most(weight):
    """On average of a group: of the scales that are tried, largest / 7.75 guarantees that for every weight."""
    found = quantizer("int4").quantize(weight, "linear")
    assert isinstance(found, Int4Weight)
    assert int(found.values.min()) >= -8
    assert int(found.values.max()) <= 7
    assert found.scales.dtype == torch.float16
    groups = weight.view(len(weight), -1, GROUP)
    errors = (found.dense(EVERYTHING).view_as(groups) - groups).square().mean(-1).sqrt()
    step = groups.abs().amax(-1) / 7.75
    rounding = 8 * (step * 2**-11 + 2**-25)  # of the scale to float16, for a weight of 8 steps
    assert bool((errors <= 0.75 * step + rounding).all())


def test_int4_has_less_error_than_rounding_to_the_largest_weight():
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    scales = weight.view(256, -1, GROUP).abs().amax(-1) / 7
    values = (weight.view(256, -1, GROUP) / scales[..., None]).round().view_as(weight)
    simple = (Int4Weight(values.to(torch.int8), scales.half()).dense(EVERYTHING) - weight).square().mean()
    found = (quantizer("int4").quantize(weight, "linear").dense(EVERYTHING) - weight).square().mean()
    assert found < 0.75 * simple


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_what_fits_exactly_stays_exact(name):
    largest = {"int8": 127, "int4": 8}[name]
    draw = torch.Generator().manual_seed(1)
    values = torch.randint(-largest, min(largest, 126), (5, 64), generator=draw).float()
    values[:, ::GROUP] = -largest
    weight = values / 128
    assert torch.equal(quantizer(name).quantize(weight, "linear").dense(EVERYTHING), weight)


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_that_is_not_finite_is_refused(name, bad, dtype):
    weight = torch.ones(70, 96, dtype=dtype)
    weight[68, 95] = bad
    with pytest.raises(ModelError, match="row 68 holds a weight that is not finite"):
        quantizer(name).quantize(weight, "linear")


def test_int4_keeps_embedding_and_head_in_int8():
    quantization = quantizer("int4")
    assert (quantization.weight_format("linear"), quantization.weight_format("head")) == ("int4", "int8")
    assert isinstance(quantization.quantize(torch.ones(3, 40), "head"), Int8Weight)


def test_names():
    assert quantization_names() == ["none", "int4", "int8"]
    assert find_quantization("none", Kernels(CPU)) is None
    with pytest.raises(ConfigurationError, match="There is no quantization 'foo'; there are: none, int4, int8"):
        find_quantization("foo", Kernels(CPU))


# --- in a worker ------------------------------------------------------------------------------------------


def load(folder, quantization, **config):
    settings = {"num_threads": 1} | config
    worker = Worker(EngineConfig(model=str(folder), quantization=quantization, **settings), lambda *_: None)
    return worker, worker.load()


@pytest.fixture
def folder(make_checkpoint):
    return make_checkpoint("Qwen2ForCausalLM", hidden_size=64, intermediate_size=96, tie_word_embeddings=True)


def test_the_bytes_that_are_held(folder):
    facts = {name: load(folder, name)[1] for name in ("none", "int8", "int4")}
    head, hidden, qkv, inner, layers = 160 * 64, 64, 64 + 2 * 32, 96, 3
    matrices = layers * (hidden * qkv + hidden * hidden + 3 * hidden * inner)
    columns = layers * (qkv + hidden + 2 * inner + hidden)
    others = 4 * (layers * (2 * hidden + qkv) + hidden)
    assert facts["none"].weight_bytes == 4 * (head + matrices) + others
    assert facts["int8"].weight_bytes == head + matrices + 4 * (columns + 160) + others
    assert facts["int4"].weight_bytes == head + 4 * 160 + matrices * 9 // 16 + others
    assert len({each.parameters for each in facts.values()}) == 1
    assert len({each.fingerprint for each in facts.values()}) == 3


def test_a_layer_that_int4_cannot_have_is_named(make_checkpoint):
    folder = make_checkpoint("LlamaForCausalLM", hidden_size=64, intermediate_size=40)
    with pytest.raises(ConfigurationError) as caught:
        load(folder, "int4")
    assert str(caught.value) == (
        "model.layers.0.mlp.down_proj.weight: int4 shares a scale among 32 inputs, and 40 inputs are no multiple of "
        "that; take --quantization int8"
    )
    load(folder, "int8")


def test_a_layer_with_a_weight_that_is_not_finite_is_named(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][5, 7] = torch.nan
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.gate_proj\.weight, .*up_proj\.weight: row 101 holds"):
        load(broken, "int8")


def test_what_the_weights_took_and_take_is_logged(folder, caplog):
    with caplog.at_level("INFO", "engine.worker.worker"):
        _, facts = load(folder, "int8")
    before, after = f"{4 * facts.parameters:,}", f"{facts.weight_bytes:,}"
    assert f"weights: {before} bytes in float32, quantized to int8, held in {after} bytes" in caplog.messages


def test_a_quantized_checkpoint_that_exceeds_memory_is_refused(folder, monkeypatch):
    monkeypatch.setattr("engine.worker.worker.available_memory", lambda: 1000)
    with pytest.raises(ConfigurationError, match=r"the weights take [\d,]+ bytes in int8, and 1,000 bytes"):
        load(folder, "int8")
