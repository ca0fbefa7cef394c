"""The steps of an engine that decodes three streams while a long prompt and, later, a burst of short ones arrive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.pictures import style
from scripts.pictures.engine import prompt, running

BUDGET, SHARE = 128, 32
STREAMS = ("stream 1", "stream 2", "stream 3")
LONG = "long prompt"
BURST = ("burst 1", "burst 2", "burst 3", "burst 4")


@dataclass(frozen=True)
class Part:
    """What a step computed of a request."""

    step: int
    name: str
    tokens: int
    is_prompt: bool


def observe() -> list[Part]:
    """Three streams; 200 tokens of prompt that arrive at step 5; four prompts of 20 that arrive at step 16."""
    settings = {"max_num_batched_tokens": BUDGET, "max_num_mixed_prefill_tokens": SHARE}
    lengths: dict[str, int] = {}
    with running(64, settings) as run:

        def start(name: str, length: int, output: int) -> None:
            lengths[name] = length
            run.start(name, prompt(length, seed=len(lengths)), output)

        for number, name in enumerate(STREAMS):
            start(name, 12 + 6 * number, 24 - 3 * number)
        for step in range(16):
            if step == 5:
                start(LONG, 200, 16)
            run.step()
        for name in BURST:
            start(name, 20, 6)
        run.finish()
        return [
            Part(batch.step, name, int(tokens), bool(context < lengths[name]))
            for batch in run.batches
            for name, tokens, context in zip(batch.sequence_ids, batch.query_lens, batch.context_lens, strict=True)
        ]


def draw(parts: list[Part], path: Path) -> None:
    picture = style.figure(11, 5)
    rows, load = picture.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _rows(rows, parts)
    steps = range(max(part.step for part in parts) + 1)
    bottom = [0] * len(steps)
    for label, color, is_prompt in (("one token of each stream", style.DECODE, False), ("prompt", style.PROMPT, True)):
        heights = [sum(p.tokens for p in parts if p.step == step and p.is_prompt is is_prompt) for step in steps]
        load.bar(steps, heights, 0.9, bottom, color=color, label=label)
        bottom = [low + high for low, high in zip(bottom, heights, strict=True)]
    load.axhline(BUDGET, color=style.INK, linestyle="--", linewidth=1)
    load.text(steps[-1], BUDGET - 4, f"budget of a step: {BUDGET}", ha="right", va="top", fontsize=9)
    load.set(xlabel="step", ylabel="tokens in the step")
    load.legend(frameon=False, loc="center right", fontsize=9)
    style.plain(load)
    style.save(picture, path)


def _rows(axes: Any, parts: list[Part]) -> None:
    names = list(dict.fromkeys(part.name for part in parts))
    for part in parts:
        row = names.index(part.name)
        axes.barh(row, 0.9, 0.8, part.step - 0.45, color=style.PROMPT if part.is_prompt else style.DECODE)
        if part.is_prompt:
            axes.text(part.step, row, str(part.tokens), ha="center", va="center", fontsize=8, color=style.INK)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_title("Orange: tokens of a prompt, as many as it says. Blue: the next token of an answer.", fontsize=10)
    style.plain(axes)
