"""Every provider of every op agrees with the op's reference on the op's own examples; on a CPU in every build."""

import re

import builds_for_tests
import pytest
import torch

from kernels.registry import Machine, Op, Provider, ops, providers

CPU = Machine.detect(torch.device("cpu"))
OPS = {op.name: op for op in ops()}


def tensors(outputs):
    return outputs if isinstance(outputs, (tuple, list)) else (outputs,)


def assert_agrees(actual, expected, tolerance):
    for got, want in zip(tensors(actual), tensors(expected), strict=True):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, atol=tolerance.atol, rtol=tolerance.rtol, equal_nan=True)


def bits(outputs):
    return [tensor.contiguous().flatten().view(torch.uint8).tolist() for tensor in tensors(outputs)]


def examples(op, provider, dtype):
    """Those that the provider accepts."""
    every = op.examples(dtype, torch.Generator().manual_seed(0))
    return (example for example in every if provider.accepts(example.spec))


def cases():
    """Op, provider, dtype, and the build of the kernels where the provider is of those that have several."""
    for op in OPS.values():
        for provider in providers(op.name):
            builds = builds_for_tests.NAMES if provider.name == "cpu" else [None] if provider.supported(CPU) else []
            for dtype in op.tolerances:
                if next(examples(op, provider, dtype), None):
                    for build in builds:
                        name = f"{op.name}-{build or provider.name}-{dtype}"
                        yield pytest.param(op, provider, dtype, build, id=name, marks=builds_for_tests.marks(build))


@pytest.mark.parametrize(("op", "provider", "dtype", "library"), list(cases()), indirect=["library"])
def test_a_provider_agrees_with_the_reference(op: Op, provider: Provider, dtype, computing_with, set_threads):
    """And with itself, bit for bit, at any number of threads."""
    implementation = provider.load()
    before = computing_with and computing_with.launches
    for example in examples(op, provider, dtype):
        expected = op.run(op.reference, *example.arguments, **example.options)
        results = []
        for threads in (1, 2, 3):
            set_threads(threads)
            results.append(op.run(implementation, *example.arguments, **example.options))
        assert_agrees(results[0], expected, op.tolerances[dtype])
        if computing_with:
            assert bits(results[0]) == bits(results[1]) == bits(results[2])
    assert computing_with is None or computing_with.launches > before, "nothing ran in this build"


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
