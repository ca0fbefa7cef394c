"""What Penstock claims of its speed on a CPU, each with the figures that decide it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from benchmarks.comparison.cells import CELLS
from benchmarks.comparison.results import Results
from benchmarks.models import SHAPES
from benchmarks.peers.contenders import CACHE_GIB
from benchmarks.roofline import WEIGHT_BYTES

PEERS = ("vllm", "transformers", "generate", "openvino", "llama.cpp")
MEBIBYTE = 2**20


@dataclass(frozen=True)
class Claim:
    text: str
    measured: float | None
    limit: float
    runs: tuple[str, ...]
    """Where the figures are from; a ratio of two runs says so by naming both."""
    kind: Literal["at least", "at most"] = "at least"
    aim: float | None = None
    unit: str = ""

    @property
    def verdict(self) -> str:
        if self.measured is None:
            return "not measured"
        return "met" if self._holds(self.limit) else "not met"

    @property
    def aim_verdict(self) -> str:
        if self.aim is None or self.measured is None:
            return ""
        return "reached" if self._holds(self.aim) else "not reached"

    def _holds(self, limit: float) -> bool:
        assert self.measured is not None
        return self.measured >= limit if self.kind == "at least" else self.measured <= limit


def ratio(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def runs_of(results: Results, *places: tuple[str, str]) -> tuple[str, ...]:
    """``places``: cell and contender."""
    return tuple(sorted({run for place in places if (run := results.run_of(*place))}))


def best_peer(results: Results, cell: str) -> tuple[str, float] | None:
    """The peer with the highest rate of steady decoding."""
    rates = {name: rate for name in PEERS if (rate := results.steady(cell, name)) is not None}
    return max(rates.items(), key=lambda item: item[1]) if rates else None


def all_claims(results: Results) -> list[Claim]:
    return [
        *_decode(results),
        *_types(results),
        *_end_to_end(results),
        *_prompts(results),
        *_small(results),
        *_latency_and_cost(results),
    ]


def _decode(results: Results) -> Iterable[Claim]:
    for batch, limit, aim, lead in ((1, 0.88, 0.90, None), (8, 0.65, 0.80, 1.3), (32, 0.65, 0.75, 1.1)):
        cell = f"decode-{batch}"
        share = results.share(cell, "penstock")
        runs = runs_of(results, (cell, "penstock"))
        yield Claim(f"M, float32, batch {batch}: share of the roofline", share, limit, runs, aim=aim)
        best = best_peer(results, cell)
        lead_now = ratio(results.steady(cell, "penstock"), best[1] if best else None)
        name = best[0] if best else "the best peer"
        runs = runs_of(results, (cell, "penstock"), *([(cell, name)] if best else []))
        yield Claim(f"M, float32, batch {batch}: steady decode against {name}", lead_now, 1.0, runs, aim=lead)


def _types(results: Results) -> Iterable[Claim]:
    for batch, limit in ((1, 1.7), (8, 1.2)):
        cell = f"decode-{batch}"
        found = ratio(results.steady(cell, "penstock-bf16"), results.steady(cell, "penstock"))
        runs = runs_of(results, (cell, "penstock"), (cell, "penstock-bf16"))
        yield Claim(f"M, batch {batch}: a bf16 checkpoint against float32", found, limit, runs)
    for batch, limit in ((1, 1.2), (8, 1.5), (32, 1.5)):
        cell = f"int8-{batch}"
        found = ratio(results.steady(cell, "penstock-int8"), results.steady(cell, "llama.cpp-q8"))
        runs = runs_of(results, (cell, "penstock-int8"), (cell, "llama.cpp-q8"))
        yield Claim(f"M, batch {batch}: int8 against llama.cpp Q8_0", found, limit, runs)


def _end_to_end(results: Results) -> Iterable[Claim]:
    cases = [(c, peer, limit) for c in (8, 32) for peer, limit in (("vllm", 1.5), ("openvino", 1.2))]
    for concurrency, peer, limit in [*cases, (32, "generate", 3.0)]:
        cell = f"decode-{concurrency}"
        found = ratio(results.output_rate(cell, "penstock"), results.output_rate(cell, peer))
        runs = runs_of(results, (cell, "penstock"), (cell, peer))
        yield Claim(f"M, float32, {concurrency} requests end to end: output against {peer}", found, limit, runs)


def ideal_prefix_rate(results: Results) -> float | None:
    """Output tokens per second if the shared prefix is computed once, at our own measured rates.

    The prefix and every prompt's own part at the rate of prompts of 1024; then all answers but their first token at
    the rate of steady decoding of 8.
    """
    cell = CELLS["prefix"]
    reading = results.figure("prompts", "penstock", "prefill_tokens_per_second")
    writing = results.steady("decode-8", "penstock")
    if not reading or not writing:
        return None
    read = cell.shared + cell.requests * (cell.prompt - cell.shared)
    seconds = read / reading + cell.requests * (cell.output - 1) / writing
    return cell.requests * cell.output / seconds


def _prompts(results: Results) -> Iterable[Claim]:
    rate = "prefill_tokens_per_second"
    found = ratio(results.figure("prompts", "penstock", rate), results.figure("prompts", "openvino", rate))
    runs = runs_of(results, ("prompts", "penstock"), ("prompts", "openvino"))
    yield Claim("M, float32, prompts of 1024: input against openvino", found, 1.1, runs)
    ours = results.output_rate("prefix", "penstock")
    runs = runs_of(results, ("prefix", "penstock"), ("prefix", "vllm"))
    against = ratio(ours, results.output_rate("prefix", "vllm"))
    yield Claim("M, float32, 8 requests sharing 512 tokens: output against vllm", against, 1.3, runs)
    runs = runs_of(results, *((cell, "penstock") for cell in ("prefix", "prompts", "decode-8")))
    slower = ratio(ideal_prefix_rate(results), ours)
    yield Claim("The same: times slower than if the prefix is computed once", slower, 1.2, runs, kind="at most")


def _small(results: Results) -> Iterable[Claim]:
    """As both are by default, and with keys and values in the same type: OpenVINO's default is 8 bits, ours float32."""
    for ours, its, caches in (
        ("penstock", "openvino", "its KV cache of 8 bits, ours of 32"),
        ("penstock", "openvino-kv32", "both KV caches of 32 bits"),
        ("penstock-kv8", "openvino", "both KV caches of 8 bits"),
    ):
        for concurrency in (1, 8, 32):
            cell = f"small-{concurrency}"
            found = ratio(results.output_rate(cell, ours), results.output_rate(cell, its))
            runs = runs_of(results, (cell, ours), (cell, its))
            text = f"S, float32, {concurrency} at a time: output over HTTP against openvino in process, {caches}"
            yield Claim(text, found, 1.0, runs)


def _latency_and_cost(results: Results) -> Iterable[Claim]:
    latency = [results.figure("mixed", "penstock", "stream_itl_ms", share) for share in ("p99", "p50")]
    runs = runs_of(results, ("mixed", "penstock"))
    yield Claim("M, float32, long prompts among streams: ITL p99 / p50", ratio(*latency), 3.0, runs, kind="at most")
    start = results.special.get("start", {})
    yield Claim(
        "Start to first answer, demo model",
        start.get("seconds"),
        3.0,
        (start["run"],) if start else (),
        kind="at most",
        unit="s",
    )
    for name, cells in (
        ("penstock", ("decode-1", "decode-8", "decode-32", "prompts", "prefix", "mixed")),
        ("penstock-bf16", ("decode-1", "decode-8", "decode-32")),
        ("penstock-int8", ("int8-1", "int8-8", "int8-32")),
    ):
        resident = results.memory(name, "resident")
        over = None if resident is None else (resident - weights_and_cache(name)) / MEBIBYTE
        runs = runs_of(results, *((cell, name) for cell in cells))
        text = f"M: resident memory of {name} beyond weights and cache"
        yield Claim(text, over, 500.0, runs, kind="at most", unit="MiB")
    same = results.special.get("identity", {})
    yield Claim(
        "S: answers that differ, in a token or a bit of a log-probability, alone, on a prefix hit and among others",
        float(same["differing"]) if same else None,
        0.0,
        (same["run"],) if same else (),
        kind="at most",
    )


def weights_and_cache(name: str) -> float:
    """Bytes of M's weights in the type in which ``name`` holds them, and of the cache that it was allowed."""
    dtype = {"penstock": "float32", "penstock-bf16": "bfloat16", "penstock-int8": "int8"}[name]
    return SHAPES["M"].multiplied * WEIGHT_BYTES[dtype] + CACHE_GIB * 2**30
