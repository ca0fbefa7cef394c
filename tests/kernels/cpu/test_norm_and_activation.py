"""Normalisations and gated activations in C: a row's bits depend on the row alone, in each build that runs here."""

import math

import builds_for_tests
import pytest
import torch
from torch.nn import functional

from kernels.ops.gelu_and_mul import gelu_and_mul
from kernels.ops.layer_norm import layer_norm
from kernels.providers.cpu.gelu_and_mul import NativeGeluAndMul
from kernels.providers.cpu.layer_norm import NativeLayerNorm
from kernels.providers.cpu.library import Library
from kernels.providers.cpu.rms_norm import NativeRMSNorm
from kernels.providers.cpu.silu_and_mul import NativeSiluAndMul


@pytest.fixture(params=builds_for_tests.INSTALLED)
def library(request, builds) -> Library:
    """Of the builds those that are installed: the others are slow, and run the ops' examples."""
    return builds[request.param]


@pytest.fixture(params=[1, 2, 3])
def threads(request, set_threads):
    set_threads(request.param)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [1, 7, 64, 131, 896, 5000])
@pytest.mark.parametrize("implementation", [NativeRMSNorm, NativeLayerNorm])
def test_a_normalised_row_is_the_same_alone_and_in_any_batch(library, threads, implementation, size):
    x, added, weight, bias = random(19, size), random(19, size, seed=1), random(size, seed=2), random(size, seed=3)
    norm = implementation(library)
    parameters = (weight, 1e-6) if implementation is NativeRMSNorm else (weight, bias, 1e-6)
    together, total = norm(x, *parameters, added)
    assert torch.equal(total, x + added)
    for rows in (range(1), range(3, 5), range(19)):
        for row in rows:
            alone, _ = norm(x[row : row + 1], *parameters, added[row : row + 1])
            assert torch.equal(alone[0], together[row])
    some, _ = norm(x[4:11], *parameters, added[4:11])
    assert torch.equal(some, together[4:11])


@pytest.mark.parametrize("tanh", [None, False, True])
@pytest.mark.parametrize("size", [1, 13, 1024, 2500])
def test_an_activated_row_is_the_same_alone_and_in_any_batch(library, threads, tanh, size):
    x = random(9, 2 * size) * 3
    if tanh is None:
        activation = NativeSiluAndMul(library)
    else:
        gelu = NativeGeluAndMul(library)

        def activation(rows):
            return gelu(rows, tanh)

    together = activation(x)
    assert torch.equal(activation(x[2:7]), together[2:7])
    for row in range(9):
        assert torch.equal(activation(x[row : row + 1])[0], together[row])


def test_heads_of_a_merged_projection_are_normalised_in_place_of_a_copy(library):
    columns = random(5, 20 * 64)
    heads, weight = columns[:, 128:768].view(5, 10, 64), random(64, seed=1)
    norm = NativeRMSNorm(library)
    normed, same = norm(heads, weight, 1e-6)
    assert same is heads
    assert torch.equal(normed, norm(heads.contiguous(), weight, 1e-6)[0])


def test_a_first_column_that_is_not_contiguous_is_refused(library):
    with pytest.raises(ValueError, match="contiguous"):
        NativeRMSNorm(library)(random(8, 4).T, random(8), 1e-6)
    with pytest.raises(ValueError, match="gated"):
        NativeSiluAndMul(library)(random(8, 4).T)


def test_a_large_mean_does_not_drown_the_variance(library):
    x = random(3, 896) + 1000.0
    normed, _ = NativeLayerNorm(library)(x, torch.ones(896), None, 1e-5)
    expected, _ = layer_norm(x.double(), torch.ones(896).double(), None, 1e-5)
    torch.testing.assert_close(normed.double(), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("tanh", [False, True])
def test_gelu_over_its_whole_range(library, tanh):
    gate = torch.cat([torch.linspace(-12, 12, 100_001), torch.tensor([-1e30, -0.0, 0.0, 1e30, math.inf, math.nan])])
    actual = NativeGeluAndMul(library)(torch.cat([gate, torch.ones_like(gate)])[None], tanh)[0]
    expected = functional.gelu(gate.double(), approximate="tanh" if tanh else "none")
    torch.testing.assert_close(actual.double(), expected, atol=1e-6, rtol=1e-6, equal_nan=True)


def test_silu_over_its_whole_range(library):
    gate = torch.cat([torch.linspace(-100, 100, 100_001), torch.tensor([-1e30, 1e30, math.inf, math.nan])])
    actual = NativeSiluAndMul(library)(torch.cat([gate, torch.ones_like(gate)])[None])[0]
    torch.testing.assert_close(actual.double(), functional.silu(gate.double()), atol=1e-30, rtol=1e-6, equal_nan=True)


# --- the new references -----------------------------------------------------------------------------------


def test_layer_norm_by_its_definition():
    x, added, weight, bias = random(4, 50), random(4, 50, seed=1), random(50, seed=2), random(50, seed=3)
    normed, total = layer_norm(x, weight, bias, 1e-5, added)
    wide = (x + added).double()
    centered = wide - wide.mean(-1, keepdim=True)
    expected = centered / ((centered**2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double() + bias.double()
    assert torch.equal(total, x + added)
    torch.testing.assert_close(normed.double(), expected, atol=1e-5, rtol=1e-5)


def test_gelu_by_its_definition():
    x = random(3, 80) * 3
    gate, up = x.double().tensor_split(2, dim=-1)
    exact = gate * 0.5 * (1 + torch.special.erf(gate / math.sqrt(2))) * up
    by_tanh = gate * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3))) * up
    torch.testing.assert_close(gelu_and_mul(x, False).double(), exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gelu_and_mul(x, True).double(), by_tanh, atol=1e-5, rtol=1e-5)
