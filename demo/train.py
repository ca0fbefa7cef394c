"""Train the demo model: `python -m demo.train --out runs/demo`. Killed or stopped, the same command goes on.

Float32 on CPU threads, one pass over a corpus that is made while training. See demo/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer

from demo.corpus import WEIGHTS, Batches, Mixture, texts
from demo.export import export
from demo.model import DemoModel
from demo.muon import Muon
from demo.tokenizer import save_tokenizer, train_tokenizer

SEED = 20251121
TOKENS_PER_STEP = 4096
STEPS = 2250
WARMUP = 20
PLATEAU = 500  # steps at the full rate
# Copying what the user wrote is learned late and much depends on it: a stretch with more of it.
COPYING = WEIGHTS | {"echo": 20, "spelling": 14, "json": 10, "memory": 8}
COPYING_FROM, COPYING_TO = 500, 800
# Then the skills that still lagged (facts in unseen words, sums, sorting, tools) at the cost of those that were done.
LATE = WEIGHTS | {
    "arithmetic": 30,
    "word_problems": 8,
    "sorting": 9,
    "counting": 6,
    "calendar": 10,
    "simple_facts": 10,
    "small_talk": 11,
    "memory": 7,
    "echo": 5,
    "reversing": 9,
    "tool_call": 2.5,
    "tool_answer": 1.5,
    "units": 4,
    "comparing": 3,
    "too_big": 1,
    "unknown": 5,
    "story": 0.8,
}
MUON_LR, ADAM_LR = 0.02, 0.003


# At the end, more of what needs exact copying over a distance: the names in the tools that are offered.
TOOLS_FROM = 1100
TOOLS = LATE | {
    "tool_call": 4,
    "tool_answer": 2,
    "calendar": 14,
    "sorting": 11,
    "counting": 7,
    "small_talk": 9,
    "comparing": 2,
}
# A short second rise of the rate for what was still below nine in ten.
LAST_FROM = 1450
LAST = TOOLS | {
    "arithmetic": 36,
    "counting": 16,
    "sorting": 18,
    "tool_call": 5,
    "tool_answer": 3,
    "unknown": 3,
    "units": 2,
    "json": 4,
    "reversing": 4,
    "letters": 4,
    "penstock": 8,
}
# And a third, longer one, with the most of what lists of numbers and offered tools still got wrong.
FINAL_FROM = 1650
FINAL = LAST | {
    "arithmetic": 40,
    "word_problems": 9,
    "counting": 22,
    "sorting": 24,
    "calendar": 15,
    "comparing": 4,
    "tool_call": 6,
    "tool_unneeded": 2,
    "echo": 7,
    "small_talk": 10,
    "penstock": 10,
}


def mixture(step: int) -> Mixture:
    """What is practised at a step."""
    if step < COPYING_FROM:
        return Mixture()
    if step < COPYING_TO:
        return Mixture(COPYING)
    if step < TOOLS_FROM:
        return Mixture(LATE)
    if step < LAST_FROM:
        return Mixture(TOOLS, tool_sessions=0.10)
    return Mixture(LAST if step < FINAL_FROM else FINAL, tool_sessions=0.10)


def rate(step: int) -> float:
    """Share of the full learning rate: a short rise, a plateau, two straight lines down, and two further descents."""
    if step < PLATEAU:
        return min(1.0, (step + 1) / WARMUP)
    if step < TOOLS_FROM:
        return (1400 - step) / (1400 - PLATEAU)
    if step < LAST_FROM:
        return (1500 - step) / (1500 - TOOLS_FROM) / 3
    if step < FINAL_FROM:
        return 0.15 * (FINAL_FROM - step) / (FINAL_FROM - LAST_FROM)
    return 0.3 * (STEPS - step) / (STEPS - FINAL_FROM)


def optimizers(model: DemoModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim == 1 or "embed" in n]
    return [Muon(matrices, MUON_LR), torch.optim.AdamW(others, ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0)]


def get_tokenizer(out: Path) -> Tokenizer:
    """The tokenizer of this run: learned once, from 30,000 conversations."""
    folder = out / "tokenizer"
    if not (folder / "tokenizer.json").exists():
        # Without the markers: they are tokens of their own, and merges for their parts would be wasted.
        plain = (re.sub(r"<\|\w+\|>|</?tool_call>", "\n", text) for text in texts(SEED, 30_000))
        save_tokenizer(train_tokenizer(plain), folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


class Threads:
    """Gives the training one thread, or all cores while nothing else on the machine wants them."""

    def __init__(self, fixed: int) -> None:
        self.fixed = fixed
        self.before, self.calm = self._read(), 0
        torch.set_num_threads(fixed or 1)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Seconds: (wall clock, all cores busy, this process)."""
        fields = [int(x) / os.sysconf("SC_CLK_TCK") for x in Path("/proc/stat").read_text().split("\n")[0].split()[1:]]
        return time.perf_counter(), sum(fields) - fields[3] - fields[4], time.process_time()

    def adjust(self) -> None:
        """Look at the last step and choose for the next one."""
        if self.fixed:
            return
        now = self._read()
        wall, busy, own = (b - a for a, b in zip(self.before, now, strict=True))
        self.before = now
        self.calm = self.calm + 1 if (busy - own) / wall < 0.2 else 0
        torch.set_num_threads((os.cpu_count() or 1) if self.calm > 2 else 1)


def save(path: Path, model: DemoModel, opts: list[torch.optim.Optimizer], step: int, tokens: int) -> None:
    """Write a checkpoint, whole or not at all."""
    state = {"model": model.state_dict(), "opts": [o.state_dict() for o in opts], "step": step, "tokens": tokens}
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def train_step(model: DemoModel, groups: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """Gradients over all groups of a step; returns the weighted loss and the loss of assistant tokens."""
    total = sum(float(w[:, 1:].sum()) for _, w in groups)
    answers = sum(int((w[:, 1:] == 1).sum()) for _, w in groups)
    weighted, answered = 0.0, 0.0
    for ids, weights in groups:
        loss, answer_loss = model.loss(ids, weights)
        (loss / total).backward()
        weighted += float(loss.detach()) / total
        answered += float(answer_loss) / answers
    return weighted, answered


def main() -> None:
    """Train, log, checkpoint, export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the log")
    parser.add_argument("--export", type=Path, default=Path("engine/demo_model"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=0, help="0: one, and all cores while the machine is idle")
    args = parser.parse_args()
    threads = Threads(args.threads)
    torch.manual_seed(SEED)
    args.out.mkdir(parents=True, exist_ok=True)
    batches = Batches(get_tokenizer(args.out), SEED, TOKENS_PER_STEP)
    model = DemoModel()
    opts = optimizers(model)
    checkpoint, step, tokens = args.out / "checkpoint.pt", 0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, opt_state in zip(opts, state["opts"], strict=True):
            opt.load_state_dict(opt_state)
        step, tokens = state["step"], state["tokens"]
    base = [MUON_LR, ADAM_LR]
    with (args.out / "log.jsonl").open("a") as log:
        while step < args.steps:
            began = time.perf_counter()
            groups = batches.step(step, mixture(step))
            loss, answer_loss = train_step(model, groups)
            for opt, lr in zip(opts, base, strict=True):
                opt.param_groups[0]["lr"] = lr * rate(step)
                opt.step()
                opt.zero_grad(set_to_none=True)
            count = sum(int((w > 0).sum()) for _, w in groups)
            step, tokens = step + 1, tokens + count
            threads.adjust()
            took = time.perf_counter() - began
            row = {
                "step": step,
                "tokens": tokens,
                "loss": round(loss, 4),
                "answers": round(answer_loss, 4),
                "tok/s": round(count / took),
                "threads": torch.get_num_threads(),
            }
            print(json.dumps(row), file=log, flush=True)
            if step % 50 == 0 or step == args.steps:
                save(checkpoint, model, opts, step, tokens)
    export(model.state_dict(), args.out / "tokenizer", args.export)


if __name__ == "__main__":
    main()
