"""Every provider of every op agrees with the op's reference on the op's own examples."""

import re

import pytest
import torch

from kernels.registry import Machine, Op, ops, providers

CPU = Machine.detect(torch.device("cpu"))
OPS = {op.name: op for op in ops()}


def tensors(outputs):
    return outputs if isinstance(outputs, (tuple, list)) else (outputs,)


def assert_agrees(actual, expected, tolerance):
    for got, want in zip(tensors(actual), tensors(expected), strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, atol=tolerance.atol, rtol=tolerance.rtol, equal_nan=True)


def cases():
    for op in OPS.values():
        for provider in filter(lambda provider: provider.supported(CPU), providers(op.name)):
            for dtype in op.tolerances:
                yield pytest.param(op, provider, dtype, id=f"{op.name}-{provider.name}-{dtype}")


@pytest.mark.parametrize(("op", "provider", "dtype"), list(cases()))
def test_provider_agrees_with_the_reference(op: Op, provider, dtype):
    implementation = provider.load()
    for example in op.examples(dtype, torch.Generator().manual_seed(0)):
        if provider.accepts(example.spec):
            expected = op.run(op.reference, *example.arguments, **example.options)
            actual = op.run(implementation, *example.arguments, **example.options)
            assert_agrees(actual, expected, op.tolerances[dtype])


@pytest.mark.parametrize("op", list(OPS.values()), ids=list(OPS))
def test_an_op_is_named_as_its_module_and_has_examples_for_each_dtype(op: Op):
    assert re.fullmatch("[a-z_]+", op.name)
    for dtype in op.tolerances:
        examples = list(op.examples(dtype, torch.Generator().manual_seed(0)))
        assert len({repr(example.spec) for example in examples}) >= 1
        again = list(op.examples(dtype, torch.Generator().manual_seed(0)))
        for first, second in zip(examples, again, strict=True):
            assert_agrees(
                op.run(op.reference, *first.arguments, **first.options),
                op.run(op.reference, *second.arguments, **second.options),
                op.tolerances[dtype],
            )


def test_an_op_does_not_change_its_inputs():
    for op in OPS.values():
        for dtype in op.tolerances:
            for example in op.examples(dtype, torch.Generator().manual_seed(0)):
                before = [value.clone() if isinstance(value, torch.Tensor) else value for value in example.arguments]
                op.run(op.reference, *example.arguments, **example.options)
                for value, copy in zip(example.arguments, before, strict=True):
                    if isinstance(value, torch.Tensor):
                        torch.testing.assert_close(value, copy, atol=0, rtol=0, equal_nan=True)
