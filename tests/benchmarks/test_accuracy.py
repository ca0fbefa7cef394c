"""Errors of kernels in units in the last place, against references computed in float64."""

from dataclasses import replace

import pytest
import torch

from benchmarks.device import accuracy
from kernels.ops import linear, paged_attention, rms_norm, token_logprobs
from kernels.registry import Provider, ops

CPU = torch.device("cpu")


def examples(op, dtype):
    return op.OP.examples(dtype, torch.Generator().manual_seed(0))


def test_what_is_rounded_once_is_off_by_half_a_unit():
    exact = torch.randn(40, 64, dtype=torch.float64)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        errors = accuracy.Errors()
        errors.add(exact.to(dtype), exact)
        assert 0.25 < errors.greatest <= 0.5
        assert 0.1 < errors.typical < 0.3


def test_a_unit_is_that_of_the_number_or_of_its_row():
    exact = torch.tensor([[8.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    errors = accuracy.Errors()
    errors.add((exact + torch.tensor([[8.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]) * 2.0**-7).to(torch.bfloat16), exact)
    assert errors.greatest == 1.0, "one unit of 8, and one of the root mean square of its row, 4"
    assert errors.typical == pytest.approx((2 / 8) ** 0.5)


def test_what_has_no_size_has_no_error():
    errors = accuracy.Errors()
    errors.add(torch.tensor([[1.0, 2.0]]), torch.tensor([[torch.nan, torch.inf]], dtype=torch.float64))
    assert errors.greatest is errors.typical is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_references_are_computed_in_float64(dtype):
    for example in examples(rms_norm, dtype):
        x, weight, eps, residual = (
            each.double() if isinstance(each, torch.Tensor) else each for each in example.arguments
        )
        total = x if residual is None else x + residual
        normed = total / (total.square().mean(-1, keepdim=True) + eps).sqrt() * weight
        found = accuracy.in_float64(rms_norm.OP, example)
        for one, other in zip(found, (normed, total), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    example = next(each for each in examples(linear, dtype) if each.spec.weights == "int4")
    x, weight, _, ids = example.arguments
    dense = weight.values.double() * weight.scales.double().repeat_interleave(linear.GROUP, dim=-1)
    product, rows = accuracy.in_float64(linear.OP, example)
    torch.testing.assert_close(product, x.double() @ dense.T, rtol=1e-13, atol=1e-13)
    assert torch.equal(rows, dense[ids])


def test_log_probabilities_are_those_of_the_ids_that_have_to_be_equal():
    *_, example = examples(token_logprobs, torch.float32)
    logits, targets, top = example.arguments
    logprob, rank, ids, tops = accuracy.in_float64(token_logprobs.OP, example)
    expected = logits.double().log_softmax(-1)
    torch.testing.assert_close(logprob, expected[torch.arange(len(targets)), targets])
    torch.testing.assert_close(tops, expected.topk(top).values)
    assert rank is ids is None


def test_every_op_has_an_error_or_must_be_equal():
    exact = {op.name for op in ops() for dtype in op.tolerances if op.tolerances[dtype].rtol == 0}
    for op in ops():
        example = next(iter(op.examples(torch.float32, torch.Generator().manual_seed(0))))
        found = accuracy.in_float64(op, example)
        measured = any(each is not None for each in found)
        assert measured == (op.name not in exact | {"quantize"}), op.name
        assert all(each.dtype == torch.float64 for each in found if each is not None)


def test_a_kernel_is_held_to_its_op_and_its_errors_stand_beside_the_references():
    def coarse(*arguments, **options):
        return (paged_attention.paged_attention(*arguments, **options).float() * (1 + 2.0**-7)).to(torch.bfloat16)

    provider = Provider("x", "1", 1, lambda machine: True, lambda spec: True, lambda: paged_attention.paged_attention)
    well, worse, wrong = (
        accuracy.check(paged_attention.OP, replace(provider, load=lambda load=load: load), torch.bfloat16, CPU, 3)
        for load in (paged_attention.paged_attention, coarse, lambda q, *_, **__: q)
    )
    assert well.problem == "" and well.examples > 5
    assert well.greatest == well.reference_greatest <= 0.51
    assert well.typical == well.reference_typical
    assert worse.typical > 2 * worse.reference_typical
    assert worse.reference_typical == well.typical
    assert wrong.problem.startswith("AssertionError: Tensor-likes are not close!")
