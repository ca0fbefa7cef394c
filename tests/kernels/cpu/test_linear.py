"""A row's product has the same bits alone and in any batch, in every weight format, with any number of threads."""

import pytest
import torch

from kernels.ops.linear import OP, Int4Weight, Int8Weight, TorchLinear
from kernels.providers.cpu import loader
from kernels.providers.cpu.linear import PackedLinear

ROWS = [1, 2, 3, 5, 6, 7, 11, 12, 13, 25, 192, 193, 401]
"""Around the heights at which tiles and blocks are cut."""
FORMATS = ["float32", "bfloat16", "float16", "int8", "int4"]
SHAPES = [(32, 1), (64, 40), (288, 100), (544, 130), (800, 17), (64, 1000)]


def make_weight(form, out_features, in_features, generator):
    if form == "int8":
        values = torch.randint(-127, 128, (out_features, in_features), generator=generator, dtype=torch.int8)
        return Int8Weight(values, torch.rand(out_features, generator=generator))
    if form == "int4":
        values = torch.randint(-8, 8, (out_features, in_features), generator=generator, dtype=torch.int8)
        return Int4Weight(values, torch.rand(out_features, in_features // 32, generator=generator).half())
    return torch.randn(out_features, in_features, generator=generator).to(getattr(torch, form))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("form", FORMATS)
def test_a_row_does_not_depend_on_its_batch(form, threads):
    generator, linear = torch.Generator().manual_seed(0), PackedLinear(loader.load())
    for in_features, out_features in SHAPES:
        x = torch.randn(max(ROWS), in_features, generator=generator)
        bias = torch.randn(out_features, generator=generator)
        handle = linear.pack(make_weight(form, out_features, in_features, generator), bias)
        threads(1)
        alone = torch.cat([linear(row[None], handle) for row in x])
        for count in (1, 2, 3):
            threads(count)
            for rows in ROWS:
                first = (max(ROWS) - rows) // 2
                assert torch.equal(linear(x[first : first + rows], handle), alone[first : first + rows])


@pytest.mark.parametrize("form", FORMATS)
def test_long_sums_agree_with_float64(form):
    generator, linear = torch.Generator().manual_seed(1), PackedLinear(loader.load())
    weight, x = make_weight(form, 48, 4864, generator), torch.randn(9, 4864, generator=generator)
    dense = weight.double() if isinstance(weight, torch.Tensor) else weight.dense(slice(None)).double()
    expected = x.double() @ dense.T
    error = (linear(x, linear.pack(weight, None)) - expected).norm() / expected.norm()
    torch_error = (TorchLinear()(x, (weight, None)) - expected).norm() / expected.norm()
    assert error < max(2e-6, 4 * torch_error)


def test_rows_of_x_may_lie_apart():
    linear, x = PackedLinear(loader.load()), torch.randn(5, 96)
    handle = linear.pack(torch.randn(7, 32), None)
    assert torch.equal(linear(x[:, 32:64], handle), linear(x[:, 32:64].contiguous(), handle))


def test_other_strides_and_widths_are_refused():
    linear = PackedLinear(loader.load())
    handle = linear.pack(torch.randn(7, 32), None)
    for x in (torch.randn(4, 31), torch.randn(32, 4).T):
        with pytest.raises(ValueError, match="32 columns fit"):
            linear(x, handle)


def test_packed_bytes_are_those_of_the_format():
    linear = PackedLinear(loader.load())
    sizes = {
        form: linear.pack(make_weight(form, 64, 256, torch.Generator().manual_seed(0)), None).weight.nbytes
        for form in FORMATS
    }
    weights = 64 * 256
    assert sizes == {
        "float32": 4 * weights,
        "bfloat16": 2 * weights,
        "float16": 2 * weights,
        "int8": weights,
        "int4": weights // 2 + weights // 32 * 2,
    }


def test_infinity_and_nan_are_passed_on():
    linear = PackedLinear(loader.load())
    for form in ("float32", "bfloat16", "float16"):
        weight = torch.ones(3, 32, dtype=getattr(torch, form))
        weight[1, 5], weight[2, 7] = torch.inf, torch.nan
        out = linear(torch.ones(4, 32), linear.pack(weight, None))
        assert out[:, 0].tolist() == [32.0] * 4
        assert torch.isinf(out[:, 1]).all()
        assert torch.isnan(out[:, 2]).all()


def test_the_op_has_examples_of_every_format():
    specs = [example.spec for example in OP.examples(torch.float32, torch.Generator().manual_seed(0))]
    assert {spec.weights for spec in specs} == set(FORMATS)
