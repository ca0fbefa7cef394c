"""What the engine refuses: the gateway's own checks come first, and this is the wall behind them.

A token id beyond the vocabulary would fault inside a kernel, in the middle of everybody's step.

The gateway checks ``max_tokens`` against the context of the engine that it knows. A choice may come to another one,
after a restart or an upgrade, whose cache and so whose context is smaller. It is not refused for what it might still
generate: it ends where the context is full.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from engine.messages import Rejected, Start


def refusal(start: Start, *, max_model_len: int, vocab_size: int) -> Rejected | None:
    """Says why this request cannot be served; None where it can."""
    if not start.prompt:
        return _rejected(start, "The prompt holds no tokens.")
    known = len(start.prompt) + len(start.output_prefix)
    # With output, a context that is just full is an end; without, there has to be room for a token.
    if max(known, len(start.prompt) + 1) > max_model_len:
        return _rejected(
            start,
            f"The request has {known} tokens of prompt and output so far;"
            f" the engine's longest context is {max_model_len} tokens.",
            no_room=True,
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
            return _rejected(start, f"{field} holds a token id outside the vocabulary (0 to {vocab_size - 1}).")
    return None


def fitted(start: Start, max_model_len: int) -> Start:
    """The same with no more output than the context holds; ``start`` is one that is not refused."""
    most = max_model_len - len(start.prompt)
    if start.params.max_tokens <= most:
        return start
    return replace(start, params=replace(start.params, max_tokens=most))


def _rejected(start: Start, message: str, *, no_room: bool = False) -> Rejected:
    return Rejected(id=start.id, attempt=start.attempt, message=message, no_room=no_room)
