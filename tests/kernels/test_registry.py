"""How a provider is chosen, and what the fingerprint says of it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kernels.registry
from kernels.kv_formats import FP8
from kernels.ops import linear, paged_attention
from kernels.ops.silu_and_mul import OP, SiluAndMulSpec
from kernels.providers import triton
from kernels.registry import Kernels, Machine, NotInvariantError, Provider

HERE = Machine("cpu", "AVX2", "a processor", 2)
SPEC = SiluAndMulSpec(64, torch.float32)


def provider(name="fast", version="1", priority=1, supported=True, accepts=True, build=""):
    return Provider(
        name, version, priority, lambda machine: supported, lambda spec: accepts, lambda: name, lambda: build
    )


@pytest.fixture
def offer(monkeypatch):
    """Offer these providers for every op, in place of those found on disk."""

    def offer(*found):
        ordered = sorted(found, key=lambda each: -each.priority)
        monkeypatch.setattr(kernels.registry, "providers", lambda op: iter(ordered))

    return offer


def test_the_reference_where_no_provider_fits(offer):
    offer(provider(supported=False), provider(accepts=False))
    chosen = Kernels(HERE)
    assert chosen.select(OP, SPEC) is OP.reference
    assert chosen.chosen == {"silu_and_mul": "torch"}


def test_the_highest_priority_of_those_that_fit(offer):
    offer(provider("slow", priority=1), provider("fast", priority=3), provider("other", priority=9, accepts=False))
    chosen = Kernels(HERE)
    assert chosen.select(OP, SPEC) == "fast"
    assert chosen.chosen == {"silu_and_mul": "fast"}


def test_shapes_may_differ_in_their_provider(offer):
    offer(Provider("even", "1", 1, lambda machine: True, lambda spec: spec.size % 2 == 0, lambda: "even"))
    chosen = Kernels(HERE)
    assert chosen.select(OP, SPEC) == "even"
    assert chosen.select(OP, SiluAndMulSpec(65, torch.float32)) is OP.reference
    assert chosen.chosen == {"silu_and_mul": "even+torch"}


def fingerprint(offer, *found, machine=HERE, specs=(SPEC,)):
    offer(*found)
    chosen = Kernels(machine)
    for spec in specs:
        chosen.select(OP, spec)
    return chosen.fingerprint()


def test_the_fingerprint_follows_the_choices_and_the_machine(offer):
    same = fingerprint(offer, provider())
    assert fingerprint(offer, provider()) == same
    other_size = SiluAndMulSpec(65, torch.float32)
    different = [
        fingerprint(offer),
        fingerprint(offer, provider(version="2")),
        fingerprint(offer, provider(name="other")),
        fingerprint(offer, provider(build="avx2 1234")),
        fingerprint(offer, provider(), specs=(other_size,)),
        fingerprint(offer, provider(), machine=Machine("cpu", "AVX512", "a processor", 2)),
        fingerprint(offer, provider(), machine=Machine("cpu", "AVX2", "a processor", 1)),
    ]
    assert len({same, *different}) == 1 + len(different)


def test_the_order_of_choices_does_not_matter(offer):
    specs = [SPEC, SiluAndMulSpec(32, torch.float32)]
    assert fingerprint(offer, specs=specs) == fingerprint(offer, specs=specs[::-1])


def test_every_module_beside_a_provider_names_an_op():
    """A misspelt file name would otherwise never be chosen, and nobody would notice."""
    names = {op.name for op in kernels.registry.ops()}
    for folder in (Path(kernels.registry.__file__).parent / "providers").iterdir():
        modules = {file.stem for file in folder.glob("*.py") if "PROVIDER" in file.read_text()}
        assert modules <= names


def test_providers_are_found_on_disk():
    found = list(kernels.registry.providers("linear"))
    assert "cpu" in [each.name for each in found]
    assert found == sorted(found, key=lambda each: -each.priority)


def test_the_builds_are_those_of_the_providers_that_are_used(offer):
    offer(provider("unfit", priority=2, accepts=False, build="avx512 5678"), provider(build="avx2 1234"))
    chosen = Kernels(HERE)
    assert chosen.builds == []
    chosen.select(OP, SPEC)
    assert chosen.builds == ["avx2 1234"]


def test_kernels_import_nothing_of_ours():
    code = (
        "import sys, kernels.registry as r; list(r.ops()); [list(r.providers(op.name)) for op in r.ops()];"
        "print([m for m in sys.modules if m.split('.')[0] in ('engine', 'gateway', 'observability', 'transformers')])"
    )
    root = Path(kernels.registry.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- deterministic ------------------------------------------------------------------------------------------

LINEAR = linear.LinearSpec(64, 96, False, torch.bfloat16, "bfloat16")
ATTENTION = paged_attention.PagedAttentionSpec(8, 2, 64, 16, False, torch.bfloat16, torch.bfloat16)


def names(machine, op, spec):
    """Of the providers on disk that would be chosen there, without loading any."""
    fitting = [each for each in kernels.registry.providers(op) if each.supported(machine) and each.accepts(spec)]
    return [each.name for each in fitting]


@pytest.mark.skipif(not triton.available(), reason="there is no Triton here")
def test_a_deterministic_gpu_takes_other_products_and_another_attention():
    fast, exact = (Machine("cuda", "sm_90", "a GPU", 1, deterministic) for deterministic in (False, True))
    assert names(fast, "linear", LINEAR) == []
    assert names(exact, "linear", LINEAR) == ["triton-invariant"]
    assert names(fast, "paged_attention", ATTENTION) == ["triton"]
    for cache_dtype in (torch.bfloat16, FP8, torch.int8):
        spec = replace(ATTENTION, cache_dtype=cache_dtype)
        assert names(exact, "paged_attention", spec) == ["triton-invariant", "triton"]
    quantized = linear.LinearSpec(64, 96, False, torch.bfloat16, "int4")
    assert names(fast, "linear", quantized) == names(exact, "linear", quantized) == ["triton"]


def test_a_deterministic_machine_refuses_what_nothing_computes_in_one_order(offer):
    offer()
    chosen = Kernels(replace(HERE, deterministic=True))
    assert chosen.select(OP, SPEC) is OP.reference, "a product of two numbers has no order"
    with pytest.raises(NotInvariantError, match=r"nothing on this machine computes linear in one order for LinearSpec"):
        chosen.select(linear.OP, LINEAR)
    assert Kernels(HERE).select(linear.OP, LINEAR) is linear.OP.reference


def test_a_cpu_computes_as_it_does_anyway(offer):
    offer(provider())
    assert fingerprint(offer, provider(), machine=replace(HERE, deterministic=True)) == fingerprint(offer, provider())
