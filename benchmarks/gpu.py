"""The GPU path measured in one call: ``python -m benchmarks.gpu --out docs/benchmarks/gpu``.

Needs torch, triton, transformers and safetensors, and neither a network nor any file: weights are drawn on the device.
Run from the root of a checkout. What fails is reported, and the rest is measured all the same. ``--device cpu --small``
goes through all of it with tiny models; the numbers mean nothing then.

A share of the memory's roofline is the time that reading all weights and every sequence's keys and values once would
take at the speed of a copy, over the time that a step takes. A share of the product's peak is the same for the
multiplications of prompts, attention's left out, at the speed of PyTorch's product of two large matrices.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.device import accuracy, limits, report
from benchmarks.device.generate import Generate
from benchmarks.device.running import Model
from benchmarks.device.shapes import LARGE, SMALL, Shape


class Benchmark:
    """Sections by name; each writes what it finds into ``found[name]`` as it goes."""

    def __init__(self, device: str, *, small: bool, seconds: float, folder: Path) -> None:
        self.device, self.small, self._folder = torch.device(device), small, folder
        self._ends = time.monotonic() + seconds
        self._deadline = self._ends
        self.found: dict[str, Any] = {}
        self.shapes = SMALL if small else LARGE
        self._limits: limits.Limits | None = None

    def run(self, names: Sequence[str], save: Callable[[dict[str, Any]], None]) -> None:
        """The sections of these names share the time evenly; one that needs less leaves it to those after it.

        ``save`` is given what has been found after each.
        """
        self.found["about"] = self._about()
        for number, name in enumerate(names):
            began = time.monotonic()
            self._deadline = began + (self._ends - began) / (len(names) - number)
            self.found[name] = section = {"rows": []}
            print(f"{name} ...", file=sys.stderr, flush=True)
            try:
                SECTIONS[name](self, section)
            except Exception:
                section["failed"] = traceback.format_exc().strip().splitlines()[-1]
                traceback.print_exc()
            section["seconds"] = round(time.monotonic() - began, 1)
            save(self.found)

    @property
    def in_time(self) -> bool:
        return time.monotonic() < self._deadline

    @property
    def limits(self) -> limits.Limits:
        self._limits = self._limits or limits.measure(self.device, small=self.small)
        return self._limits

    def _about(self) -> dict[str, Any]:
        name = platform.processor() or platform.machine()
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        return {
            "device": name,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "small": self.small,
            "date": time.strftime("%Y-%m-%d"),
        }

    # --- sections --------------------------------------------------------------------------------------------

    def kernels(self, section: dict[str, Any]) -> None:
        seed = 0 if self.small else time.time_ns() % 2**31
        section["seed"] = seed
        for checked in accuracy.check_kernels(self.device, seed):
            section["rows"].append(checked._asdict())
            if not self.in_time:
                section["cut_short"] = True
                return

    def peaks(self, section: dict[str, Any]) -> None:
        section["rows"].append(self.limits._asdict())

    def decoding(self, section: dict[str, Any]) -> None:
        for name, shape in self.shapes.items():
            model = self._model(shape)
            try:
                section["rows"].append(
                    {"model": name, "start_seconds": model.start_seconds, "kernels": model.facts.kernels}
                )
                for streams in (1, 4) if self.small else (1, 8, 32, 128, 256):
                    if self.in_time:
                        section["rows"].append({"model": name, **self._decode(model, shape, streams)})
            finally:
                model.close()

    def _decode(self, model: Model, shape: Shape, streams: int) -> dict[str, Any]:
        found = model.decode(streams, 8 if self.small else 128, 4 if self.small else 64)
        read = 2 * shape.multiplied + streams * found.context * shape.cache_bytes(2)
        roof = read / self.limits.copy_bytes_per_second
        return {"streams": streams, **found._asdict(), "roofline_share": 1e3 * roof / found.step_ms}

    def without_graphs(self, section: dict[str, Any]) -> None:
        for name, shape in self.shapes.items():
            model = self._model(shape, cuda_graphs=False)
            try:
                for streams in (1, 4) if self.small else (1, 32):
                    if self.in_time:
                        section["rows"].append({"model": name, **self._decode(model, shape, streams)})
            finally:
                model.close()

    def without_overlap(self, section: dict[str, Any]) -> None:
        """Where the host waits for each step's tokens; ``gap_ms`` says what that leaves the device idle for."""
        for name, shape in self.shapes.items():
            model = self._model(shape, overlap="off")
            try:
                for streams in (1, 4) if self.small else (1, 32):
                    if self.in_time:
                        section["rows"].append({"model": name, **self._decode(model, shape, streams)})
            finally:
                model.close()

    def prefill(self, section: dict[str, Any]) -> None:
        for name, shape in self.shapes.items():
            model = self._model(shape)
            try:
                rate = model.prefill(2, 32) if self.small else model.prefill(16, 1024)
            finally:
                model.close()
            share = 2 * shape.in_layers * rate / self.limits.matmul_flop_per_second
            section["rows"].append({"model": name, "tokens_per_second": rate, "peak_share": share})

    def deterministic(self, section: dict[str, Any]) -> None:
        """What it costs, and whether it holds: every bit of the logits of one request, alone and in company."""
        for name, shape in self.shapes.items():
            model = self._model(shape, deterministic=True)
            try:
                prompts = [model.prompt(5 + number % 40) for number in range(8 if self.small else 256)]
                alone = model.logits(prompts[:1], 8)
                for batch in (2, 8) if self.small else (2, 3, 8, 20, 64, 100, 256):
                    same = torch.equal(model.logits(prompts[:batch], 8), alone)
                    section["rows"].append({"model": name, "batch": batch, "same_logits": same})
                for streams in (1, 4) if self.small else (1, 32):
                    if self.in_time:
                        section["rows"].append({"model": name, **self._decode(model, shape, streams)})
                rate = model.prefill(2, 32) if self.small else model.prefill(16, 1024)
                share = 2 * shape.in_layers * rate / self.limits.matmul_flop_per_second
                section["rows"].append({"model": name, "prefill_tokens_per_second": rate, "peak_share": share})
            finally:
                model.close()

    def transformers(self, section: dict[str, Any]) -> None:
        """Prompts of 1024 tokens, 128 of output, beside transformers' ``generate``."""
        prompt, output, batches = (16, 4, (2,)) if self.small else (1024, 128, (8, 16, 32))
        for name, shape in self.shapes.items():
            ours: dict[int, float] = {}
            model = self._model(shape)
            try:
                for streams in batches:
                    model.whole(streams, prompt, 2)  # Not counted.
                    ours[streams] = model.whole(streams, prompt, output)
            finally:
                model.close()
            theirs = Generate(shape, self.device)
            for streams in batches:
                if self.in_time:
                    rate = theirs.tokens_per_second(streams, prompt, output)
                    row = {"model": name, "streams": streams, "ours": ours[streams], "transformers": rate}
                    section["rows"].append(row | {"ratio": ours[streams] / rate})
            del theirs  # Its memory is for the next model.

    def _model(self, shape: Shape, **settings: Any) -> Model:
        return Model(shape.write(self._folder), self.device.type, small=self.small, **settings)


SECTIONS: dict[str, Callable[[Benchmark, dict[str, Any]], None]] = {
    "peaks": Benchmark.peaks,
    "decoding": Benchmark.decoding,
    "without_graphs": Benchmark.without_graphs,
    "without_overlap": Benchmark.without_overlap,
    "prefill": Benchmark.prefill,
    "deterministic": Benchmark.deterministic,
    "transformers": Benchmark.transformers,
    # Last, as most of what it does is to compile: it has all the time that is left.
    "kernels": Benchmark.kernels,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="files to write, without .md, .json and .svg")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny models and few steps: whether it runs, not how fast")
    parser.add_argument("--seconds", type=float, default=540.0, help="for all sections together, about")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here")

    def save(found: dict[str, Any]) -> None:
        options.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        options.out.with_suffix(".svg").write_text(report.picture(found), encoding="utf-8")
        method = (__doc__ or "").split("\n\n")[-1].strip()
        text = report.markdown(found, options.out.with_suffix(".svg").name, method)
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(options.device, small=options.small, seconds=options.seconds, folder=Path(folder))
        benchmark.run(options.sections, save)
    found = benchmark.found
    print(options.out.with_suffix(".md").read_text(encoding="utf-8"))
    if any("failed" in section for name, section in found.items() if name != "about"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
