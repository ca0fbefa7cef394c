"""Attention of one sequence as the documentation of both packages has it, sharing nothing with the op's reference."""

import torch


def gather(cache, pages, length):
    """[pages, page size, Hkv, D] → the sequence's [length, Hkv, D]."""
    return torch.cat([cache[page] for page in pages.tolist()])[:length]


def attend(q, keys, values, *, scale, left, soft_cap, slopes=None):
    """q [N, Hq, D] at the end of keys and values [L, Hkv, D]; a query sees ``left`` keys beside its own, -1: all."""
    group = q.shape[1] // keys.shape[1]
    keys, values = (each.float().repeat_interleave(group, dim=1) for each in (keys, values))
    scores = torch.einsum("nhd,lhd->hnl", q.float(), keys) * scale
    if soft_cap > 0:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    query = len(keys) - len(q) + torch.arange(len(q))
    behind = query[:, None] - torch.arange(len(keys))
    if slopes is not None:
        scores = scores - slopes[:, None, None] * behind.abs()
    hidden = (behind < 0) | (behind > left) if left >= 0 else behind < 0
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return torch.einsum("hnl,lhd->nhd", weights, values).to(q.dtype)
