"""What the engine refuses: the gateway's own checks come first, and this is the wall behind them.

A token id beyond the vocabulary would fault inside a kernel, in the middle of everybody's step.
"""

from __future__ import annotations

from collections.abc import Collection

from engine.messages import Start


def refusal(start: Start, *, max_model_len: int, vocab_size: int) -> str | None:
    """Why this request cannot be served, as a sentence; None where it can."""
    if not start.prompt:
        return "The prompt holds no tokens."
    longest = len(start.prompt) + max(start.params.max_tokens, len(start.output_prefix))
    if longest > max_model_len:
        return (
            f"The prompt's {len(start.prompt)} tokens and max_tokens of {start.params.max_tokens} come to {longest};"
            f" the engine's longest context is {max_model_len} tokens."
        )
    token_ids: dict[str, Collection[int]] = {
        "prompt": start.prompt,
        "output_prefix": start.output_prefix,
        "stop_token_ids": start.params.stop_token_ids,
        "logit_bias": start.params.logit_bias,
        "allowed_token_ids": start.params.allowed_token_ids,
        "bad_words": [token for word in start.params.bad_words for token in word],
    }
    for field, ids in token_ids.items():
        if ids and (min(ids) < 0 or max(ids) >= vocab_size):
            return f"{field} holds a token id outside the vocabulary (0 to {vocab_size - 1})."
    return None
