"""flash-attn and FlashInfer, with modules in their place that have their signatures and compute plainly.

Neither can be installed without a GPU. What is tested is our side: when they are chosen, and what they are handed.
"""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels import installed
from kernels.kv_formats import FP8
from kernels.ops import paged_attention
from kernels.ops.paged_attention import PagedAttentionSpec
from kernels.per_step import PerStep
from kernels.providers import triton
from kernels.providers.flash_attn.paged_attention import FlashAttention
from kernels.providers.flashinfer.paged_attention import FlashInferAttention
from kernels.registry import Kernels, Machine, NotUsableError, providers

GPU = Machine("cuda", "sm_90", "a GPU", 1)
NAMES = {"flash_attn": "flash-attn", "flashinfer": "flashinfer"}
BLOCK = {"flash_attn": 256, "flashinfer": 16}
needs_triton = pytest.mark.skipif(not triton.available(), reason="there is no Triton for this system")


@pytest.fixture
def packages(monkeypatch):
    """Both are installed."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "stand_ins"))
    yield
    for name in ("plain_attention", *NAMES):
        sys.modules.pop(name, None)


def spec(block_size, **others):
    return replace(PagedAttentionSpec(8, 2, 64, block_size, False, torch.bfloat16, torch.bfloat16), **others)


def chosen(machine, wanted):
    """The first of the providers on disk that fits."""
    fitting = (each for each in providers("paged_attention") if each.supported(machine) and each.accepts(wanted))
    return next((each.name for each in fitting), None)


@needs_triton
@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (spec(256), "flash-attn"),
        (spec(512, alibi=True, soft_cap=True, sliding_window=True, head_dim=72), "flash-attn"),
        (spec(16), "flashinfer"),
        (spec(16, soft_cap=True, sliding_window=True, head_dim=256, dtype=torch.float16), "triton"),
        (spec(16, soft_cap=True, head_dim=256, dtype=torch.float16, cache_dtype=torch.float16), "flashinfer"),
        (spec(16, alibi=True), "triton"),
        (spec(16, head_dim=72), "triton"),
        (spec(256, head_dim=68), "triton"),
        (spec(256, dtype=torch.float32, cache_dtype=torch.float32), "triton"),
        (spec(256, dtype=torch.float32), "triton"),
        (spec(256, cache_dtype=FP8), "triton"),
        (spec(256, cache_dtype=torch.int8), "triton"),
        (spec(256, head_dim=512), None),
    ],
)
def test_what_each_is_chosen_for(packages, wanted, name):
    assert chosen(GPU, wanted) == name


@needs_triton
@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (replace(GPU, capability="sm_80"), "flash-attn"),
        (replace(GPU, capability="sm_120"), "flash-attn"),
        (replace(GPU, capability="sm_75"), "triton"),
        (replace(GPU, deterministic=True), "triton-invariant"),
        (Machine.detect(torch.device("cpu")), None),
    ],
)
def test_the_machines_they_are_chosen_on(packages, machine, name):
    assert chosen(machine, spec(256)) == name


def test_they_are_not_chosen_where_they_are_not_installed_or_for_another_maker(packages, monkeypatch):
    names = [each for each in providers("paged_attention") if each.name in NAMES.values()]
    assert [each.supported(GPU) for each in names] == [True, triton.available()]
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not any(each.supported(GPU) for each in names)
    monkeypatch.undo()
    assert not any(each.supported(GPU) for each in names)


def test_nothing_is_imported_before_it_is_chosen(packages):
    for block_size in (256, 16):
        chosen(GPU, spec(block_size))
    assert not set(NAMES) & set(sys.modules)


def test_the_version_is_in_the_fingerprint(packages):
    kernels = Kernels(GPU)
    kernels.select(paged_attention.OP, spec(256))
    assert kernels.builds == ["flash_attn 2.8.3"]
    before = kernels.fingerprint()
    sys.modules["flash_attn"].__version__ = "2.9.0"
    again = Kernels(GPU)
    again.select(paged_attention.OP, spec(256))
    assert again.fingerprint() != before


# --- a package that is not the one that is known ----------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (None, "flash_attn 2.8.3: flash_attn_with_kvcache is not there"),
        (
            lambda q, **others: None,
            "flash_attn 2.8.3: flash_attn_with_kvcache takes no alibi_slopes, block_table, cache_seqlens, causal, "
            "k_cache, softcap, softmax_scale, v_cache, window_size",
        ),
    ],
)
def test_another_signature_gives_way_to_the_next_provider_with_one_line(
    packages, monkeypatch, caplog, function, problem
):
    import flash_attn

    monkeypatch.setattr(flash_attn, "flash_attn_with_kvcache", function)
    kernels = Kernels(GPU)
    with caplog.at_level(logging.WARNING):
        for heads in (8, 16):
            kernels.select(paged_attention.OP, spec(256, num_heads=heads, head_dim=72))
    assert kernels.chosen == {"paged_attention": "triton"}
    assert kernels.builds == []
    assert [record.message for record in caplog.records] == [f"flash-attn does not compute paged_attention: {problem}"]


def test_one_that_wants_more_is_refused(packages, monkeypatch):
    import flash_attn

    monkeypatch.setattr(flash_attn, "flash_attn_varlen_func", lambda q, k, pages, more=1: None)
    with pytest.raises(NotUsableError, match=r"^flash_attn 2\.8\.3: flash_attn_varlen_func wants pages too$"):
        installed.call("flash_attn", "flash_attn_varlen_func", ("q", "k"))


def test_one_that_cannot_be_imported_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise OSError('undefined symbol: x\\nand more')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NotUsableError, match=r"^broken_library cannot be imported: OSError: undefined symbol: x$"):
        installed.call("broken_library", "function", ())


# --- what they are handed -----------------------------------------------------------------------------------------


def inputs(block_size, queries, lengths, *, dtype, head_dim=64, heads=8, kv_heads=2, **options):
    """Arguments of the op, as the engine has them on a GPU: views of larger buffers, block ids in no order."""
    draw = torch.Generator().manual_seed(len(lengths))
    blocks = [-(-length // block_size) for length in lengths]
    k_cache, v_cache = torch.randn(2, sum(blocks) + 1, block_size, kv_heads, head_dim, generator=draw).to(dtype)
    ids = torch.randperm(sum(blocks) + 1, generator=draw).int()
    tables = torch.zeros(len(lengths) + 1, max(blocks) + 3, dtype=torch.int32)
    for row, part in enumerate(torch.split(ids[: sum(blocks)], blocks)):
        tables[row, : len(part)] = part
    merged = torch.randn(sum(queries), heads + 2 * kv_heads, head_dim, generator=draw).to(dtype)
    starts = torch.tensor([0, *queries]).cumsum(0).int()
    held = torch.tensor(lengths, dtype=torch.int32)
    arguments = (merged[:, :heads], k_cache, v_cache, tables[: len(lengths), : max(blocks)], starts, held)
    options = {"scale": 0.2, "max_query_len": max(queries), "max_seq_len": max(lengths)} | options
    return arguments, options


SLOPES = 2.0 ** -torch.arange(1.0, 9.0)
STEPS = {
    "prompts": ([5, 1, 17, 40], [5, 300, 33, 300]),
    "single": ([1, 1, 1], [1, 256, 301]),
}
OPTIONS = {
    "plain": {},
    "window": {"sliding_window": 19},
    "window of one": {"sliding_window": 1},
    "soft cap": {"soft_cap": 2.0},
    "window and soft cap": {"sliding_window": 40, "soft_cap": 3.0},
    "alibi": {"alibi_slopes": SLOPES},
    "alibi and soft cap": {"alibi_slopes": SLOPES, "soft_cap": 2.0},
}


def close(found, expected, dtype):
    tolerance = paged_attention.OP.tolerances[dtype]
    torch.testing.assert_close(found, expected, atol=tolerance.atol, rtol=tolerance.rtol)


@pytest.mark.parametrize("options", list(OPTIONS.values()), ids=list(OPTIONS))
@pytest.mark.parametrize("step", list(STEPS))
def test_flash_attn_computes_what_the_op_says(packages, step, options):
    implementation = FlashAttention()
    for dtype in (torch.bfloat16, torch.float16):
        arguments, given = inputs(256, *STEPS[step], dtype=dtype, **options)
        found = implementation(*arguments, **given)
        close(found, paged_attention.paged_attention(*arguments, **given), dtype)
        again = implementation(*arguments, **given)
        assert torch.equal(again, found)
    assert sys.modules["flash_attn"].calls == ["packed" if step == "prompts" else "single"] * 4


@pytest.mark.parametrize("options", [each for name, each in OPTIONS.items() if "alibi" not in name])
def test_flashinfer_computes_prompts_as_the_op_says(packages, options):
    implementation = FlashInferAttention(paged_attention.paged_attention)
    for dtype in (torch.bfloat16, torch.float16):
        for block_size in (16, 6):
            arguments, given = inputs(block_size, *STEPS["prompts"], dtype=dtype, **options)
            close(implementation(*arguments, **given), paged_attention.paged_attention(*arguments, **given), dtype)


def test_flashinfer_leaves_single_queries_to_another(packages):
    seen = []

    def single(*arguments, **options):
        seen.append(options["max_query_len"])
        return paged_attention.paged_attention(*arguments, **options)

    implementation = FlashInferAttention(single)
    arguments, given = inputs(16, *STEPS["single"], dtype=torch.bfloat16, sliding_window=7)
    expected = paged_attention.paged_attention(*arguments, **given)
    close(implementation(*arguments, **given), expected, torch.bfloat16)
    assert seen == [1]
    assert sys.modules["flashinfer"].calls == []


def test_flashinfer_plans_once_a_step_and_shape(packages):
    implementation = FlashInferAttention(paged_attention.paged_attention)
    calls = sys.modules["flashinfer"].calls
    first, given = inputs(16, [5, 3], [5, 30], dtype=torch.bfloat16)
    for _ in range(3):
        implementation(*first, **given)
    assert calls == ["made", "planned", "run", "run", "run"]
    calls.clear()
    implementation(*first, **given, sliding_window=4)
    implementation(*first, **given)
    assert calls == ["made", "planned", "run", "run"], "layers with a window have a plan of their own"
    calls.clear()
    second, given = inputs(16, [2, 9], [40, 9], dtype=torch.bfloat16)
    found = implementation(*second, **given)
    close(found, paged_attention.paged_attention(*second, **given), torch.bfloat16)
    assert calls == ["planned", "run"]


@pytest.mark.parametrize("make", [FlashAttention, lambda: FlashInferAttention(paged_attention.paged_attention)])
def test_a_layout_that_would_need_a_copy_is_refused(packages, make):
    arguments, given = inputs(256, [5, 3], [5, 30], dtype=torch.bfloat16)
    k_cache = arguments[1].mT.contiguous().mT  # As keys lie on a CPU.
    with pytest.raises(ValueError, match="must have contiguous heads"):
        make()(arguments[0], k_cache, *arguments[2:], **given)


def test_flashinfer_has_no_slopes(packages):
    arguments, given = inputs(16, [5], [5], dtype=torch.bfloat16, alibi_slopes=SLOPES)
    with pytest.raises(ValueError, match="slopes of its own"):
        FlashInferAttention(paged_attention.paged_attention)(*arguments, **given)


def test_what_is_kept_of_a_step_is_not_taken_for_another():
    kept, made = PerStep(), []

    def get(tensors, key=None):
        return kept.get(tensors, lambda: made.append(key) or len(made), key)

    lengths = torch.tensor([3, 4])
    assert get((lengths,)) == get((lengths,)) == 1
    assert get((lengths,), "window") == 2
    assert get((lengths[:],)) == 3, "equal, but of another step"
    assert get((lengths,)) == 4
    assert get((lengths, lengths)) == 5
