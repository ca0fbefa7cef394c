"""One request alone and among others: how far the log-probabilities of its tokens are apart."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from scripts.pictures import style
from scripts.pictures.engine import prompt, running

TOKENS = 96
OTHERS = 15
SUBJECT = "subject"


def differences(*, compiled: bool) -> list[float]:
    """|alone - among others| of each output token, with the compiled kernels or with PyTorch's products.

    Ends where another token was drawn: what follows is another text.
    """
    settings = {"max_num_batched_tokens": 128, "enable_prefix_caching": False}
    results = []
    with nullcontext() if compiled else _without_providers():
        for others in (0, OTHERS):
            with running(256, settings) as run:
                for number in range(others):
                    run.start(f"other {number}", prompt(20 + 9 * number, number + 1), TOKENS, seed=number)
                    run.step()
                run.start(SUBJECT, prompt(50), TOKENS, seed=7, logprobs=0)
                run.finish()
                results.append((run.tokens[SUBJECT], [each.logprob for each in run.logprobs[SUBJECT]]))
    (tokens, alone), (again, among) = results
    same = next((place for place, pair in enumerate(zip(tokens, again, strict=True)) if pair[0] != pair[1]), TOKENS)
    return [abs(a - b) for a, b in zip(alone[:same], among[:same], strict=True)]


def _without_providers() -> AbstractContextManager[Any]:
    """As on a machine without a compiler: every op is its reference, which PyTorch computes."""
    return patch("kernels.registry.providers", lambda op: iter(()))


def observe() -> dict[str, list[float]]:
    return {
        "products by PyTorch": differences(compiled=False),
        "Penstock's kernels": differences(compiled=True),
    }


def draw(found: dict[str, list[float]], path: Path) -> None:
    picture = style.figure(11, 3.6)
    axes = picture.subplots()
    for (label, values), color in zip(found.items(), (style.PROMPT, style.DECODE), strict=True):
        text = f"{label}: {sum(value > 0 for value in values)} of {len(values)} differ"
        axes.plot(range(1, len(values) + 1), values, "o", markersize=4, color=color, label=text)
    axes.set_yscale("symlog", linthresh=1e-8)
    axes.set(xlabel="output token", ylabel="difference of its log-probability", ylim=(-3e-9, None))
    axes.set_title(f"The same request alone, and among {OTHERS} others that come and go", fontsize=10)
    axes.legend(frameon=False, loc="center right", fontsize=9)
    style.plain(axes)
    style.save(picture, path)
