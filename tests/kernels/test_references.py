"""Each op's torch reference against an independent formulation in float64 and plain loops."""

import math

import pytest
import torch

from kernels.kv_formats import as_bytes, stored
from kernels.ops import (
    apply_bitmask,
    linear,
    paged_attention,
    rms_norm,
    rope_and_cache,
    silu_and_mul,
    token_logprobs,
)

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def examples(module, dtype):
    return list(module.OP.examples(dtype, torch.Generator().manual_seed(1)))


def assert_close(module, dtype, actual, expected):
    tolerance = module.OP.tolerances[dtype]
    torch.testing.assert_close(actual.double(), expected.double(), atol=tolerance.atol, rtol=tolerance.rtol)


def plain_weight(weight):
    """[N, K] in float64, each weight times its scale."""
    if isinstance(weight, linear.Int8Weight):
        return weight.values.double() * weight.scales.double()[:, None]
    if isinstance(weight, linear.Int4Weight):
        groups = weight.values.double().view(len(weight.values), -1, linear.GROUP)
        return (groups * weight.scales.double()[:, :, None]).flatten(1)
    return weight.double()


@pytest.mark.parametrize("dtype", FLOATS)
def test_linear(dtype):
    for example in examples(linear, dtype):
        x, weight, bias, ids = example.arguments
        dense = plain_weight(weight)
        expected = (x.double()[:, None, :] * dense).sum(-1)
        if bias is not None:
            expected += bias.double()
        reference = linear.OP.reference
        handle = reference.pack(weight, bias)
        assert_close(linear, dtype, reference(x, handle), expected)
        assert_close(linear, dtype, reference.rows(ids, handle, dtype), dense[ids.long()])


@pytest.mark.parametrize("dtype", FLOATS)
def test_rms_norm(dtype):
    for example in examples(rms_norm, dtype):
        x, weight, eps, residual = example.arguments
        total = x if residual is None else (x.float() + residual.float()).to(dtype)
        wide = total.double()
        expected = wide / ((wide**2).sum(-1, keepdim=True) / wide.shape[-1] + eps).sqrt() * weight.double()
        normed, stream = rms_norm.rms_norm(x, weight, eps, residual)
        assert torch.equal(stream, total)
        assert_close(rms_norm, dtype, normed, expected)


@pytest.mark.parametrize("dtype", FLOATS)
def test_silu_and_mul(dtype):
    for example in examples(silu_and_mul, dtype):
        (gate_up,) = example.arguments
        gate, up = gate_up.double().tensor_split(2, dim=-1)
        assert_close(silu_and_mul, dtype, silu_and_mul.silu_and_mul(gate_up), gate / (1 + torch.exp(-gate)) * up)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rope_is_a_complex_rotation_and_the_cache_holds_it(dtype):
    for example in examples(rope_and_cache, dtype):
        q, k, v, positions, cos, sin, k_cache, v_cache, slots, *scales = example.arguments
        turn = torch.complex(cos.double(), sin.double())[positions, None]
        half = q.shape[-1] // 2

        def rotated(x, turn=turn, half=half):
            x = x.double()
            product = torch.complex(x[..., :half], x[..., half:]) * turn
            return torch.cat((product.real, product.imag), dim=-1)

        expected = [as_bytes(cache).clone() for cache in (k_cache, v_cache)], [each.clone() for each in scales]
        for cache, x in zip(expected[0], (rotated(k).float(), v.float()), strict=True):
            numbers, theirs = stored(x, k_cache.dtype)
            for token, slot in enumerate(slots.tolist()):
                cache[divmod(slot, k_cache.shape[1])] = as_bytes(numbers)[token]
                if theirs is not None:
                    expected[1][cache is expected[0][1]][divmod(slot, k_cache.shape[1])] = theirs[token]
        got_q, *got = rope_and_cache.OP.run(rope_and_cache.rope_and_cache, *example.arguments)
        assert_close(rope_and_cache, dtype, got_q, rotated(q))
        for found, wanted in zip(got, expected[0] + expected[1], strict=True):
            tolerance = k_cache.dtype if k_cache.dtype in FLOATS else torch.float32
            assert_close(rope_and_cache, tolerance, found, wanted)


@pytest.mark.parametrize("dtype", FLOATS)
def test_paged_attention(dtype):
    for example in examples(paged_attention, dtype):
        if dtype != torch.float32 and example.spec.cache_dtype != dtype:
            continue  # A cache of 8 bits is read alike beside all of them.
        q, k_cache, v_cache, tables, starts, lengths = example.arguments
        window, scale = example.options["sliding_window"], example.options["scale"]
        slopes, soft_cap = example.options["alibi_slopes"], example.options["soft_cap"]
        k_scales, v_scales = (example.options.get(name, torch.ones(1, 1, 1)) for name in ("k_scales", "v_scales"))
        k_cache = k_cache.double() * k_scales.double()[..., None]
        v_cache = v_cache.double() * v_scales.double()[..., None]
        group, block_size = q.shape[1] // k_cache.shape[2], k_cache.shape[1]
        expected = torch.zeros(q.shape, dtype=torch.float64)
        for row, length in enumerate(lengths.tolist()):
            tokens = range(int(starts[row]), int(starts[row + 1]))
            for token in tokens:
                position = length - (tokens.stop - token)
                first = 0 if window is None else max(0, position - window + 1)
                places = [(int(tables[row, at // block_size]), at % block_size) for at in range(first, position + 1)]
                keys = torch.stack([k_cache[place] for place in places])
                values = torch.stack([v_cache[place] for place in places])
                for head in range(q.shape[1]):
                    scores = keys[:, head // group] @ q[token, head].double() * scale
                    if soft_cap is not None:
                        scores = torch.tanh(scores / soft_cap) * soft_cap
                    if slopes is not None:
                        scores += slopes[head].double() * (torch.arange(first, position + 1) - position)
                    weights = (scores - scores.max()).exp()
                    expected[token, head] = (weights / weights.sum()) @ values[:, head // group]
        actual = paged_attention.paged_attention(*example.arguments, **example.options)
        assert_close(paged_attention, dtype, actual, expected)


def test_paged_attention_of_a_row_does_not_depend_on_its_neighbours():
    """Rows of very different lengths in one batch, each as it is alone."""
    example = next(e for e in examples(paged_attention, torch.float32) if e.options["max_query_len"] == 1)
    q, k_cache, v_cache, tables, starts, lengths = example.arguments
    together = paged_attention.paged_attention(*example.arguments, **example.options)
    for row in range(len(lengths)):
        options = example.options | {"max_seq_len": int(lengths[row])}
        alone = paged_attention.paged_attention(
            q[row : row + 1],
            k_cache,
            v_cache,
            tables[row : row + 1],
            starts[:2],
            lengths[row : row + 1],
            **options,
        )
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=1e-6)


def test_token_logprobs():
    for example in examples(token_logprobs, torch.float32):
        logits, targets, top = example.arguments
        logprob, rank, top_ids, top_logprobs = token_logprobs.token_logprobs(*example.arguments)
        for row in range(len(logits)):
            values = logits[row].double().tolist()
            total = math.log(sum(math.exp(value) for value in values))
            order = sorted(range(len(values)), key=lambda token, values=values: (-values[token], token))
            target = int(targets[row])
            assert float(logprob[row]) == pytest.approx(values[target] - total, abs=1e-5)
            assert int(rank[row]) == order.index(target) + 1
            assert top_ids[row].tolist() == order[:top]
            assert top_logprobs[row].tolist() == pytest.approx([values[t] - total for t in order[:top]], abs=1e-5)


def test_both_zeros_rank_alike():
    logits = torch.tensor([[-0.0, 0.0, -1.0]])
    _, rank, top_ids, _ = token_logprobs.token_logprobs(logits, torch.tensor([1]), 3)
    assert top_ids.tolist() == [[0, 1, 2]]
    assert rank.tolist() == [2]


def test_apply_bitmask():
    for example in examples(apply_bitmask, torch.float32):
        logits, bits = example.arguments
        before = logits.clone()
        actual = apply_bitmask.apply_bitmask(logits, bits)
        for row in range(len(logits)):
            for token in range(logits.shape[1]):
                word = int(bits[row, token // 32]) & 0xFFFFFFFF
                expected = float(logits[row, token]) if word >> token % 32 & 1 else -math.inf
                assert float(actual[row, token]) == expected
        assert torch.equal(logits, before)
