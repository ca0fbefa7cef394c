"""The report in Markdown. Every number comes from the results; nothing here is typed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.comparison.cells import CELLS, PHASES, SPECIAL
from benchmarks.comparison.claims import Claim, all_claims, ideal_prefix_rate
from benchmarks.comparison.measure import QUIET
from benchmarks.comparison.results import Results
from benchmarks.peers.contenders import CACHE_GIB, CONTENDERS

Column = tuple[str, Callable[[str], str]]
"""A heading, and what a contender has under it."""

SPREAD = 0.03
"""Share by which rounds may differ before the report shows their range."""
ONCE = "; ".join(f"{cell.name}: {' and '.join(cell.once)} once" for cell in CELLS.values() if cell.once)
METHOD = f"""\
## How it was measured

- Models have random weights and real shapes (`python -m benchmarks.models`): M is as Qwen2.5-0.5B with a vocabulary of
  32,000, S is a small Llama. Everyone has the same weights, converted where a peer reads another format.
- Contenders take turns at each cell, all once and then all again ({ONCE}).
  A peer is suspended while it is not its turn. The client runs on the same machine; its CPU time is in the JSON.
- Servers get prompts as text of exactly so many tokens; OpenVINO GenAI and `generate` run in process and get token
  ids, so they are spared HTTP and detokenizing. Prompts are new in each turn: no cache helps unless a cell shares a
  prefix on purpose. Answers have a fixed length and are greedy.
- A figure is the median of its rounds; the range is given where they differ by more than {SPREAD:.0%}. A turn during
  which others used more than {QUIET:g} cores (stolen time included) is repeated once, and is marked † where that did
  not help.
- *Steady decode* is the rate while all requests are between their first and their last token. Each request's own rate
  is taken from its own first to its last chunk in that time, and the rates are added.
- The *roofline* is what the machine allows: a step reads the weights and the keys and values once, and multiplies the
  weights with one row a request. Bandwidth and float32 peak (`python -m benchmarks.roofline`) change from minute to
  minute where a host is shared. So they are measured right before and right after each turn, while its contender is
  idle, each time as the median of 128 rounds of some milliseconds, and a share is of the better of the two. The
  roofline at the best moment of the whole run, which no rate of seconds meets with, stands above the table. A peer
  that multiplies in int8 may exceed an arithmetic roofline, which is float32's.
- Caches hold {CACHE_GIB} GiB (llama.cpp: 49,152 tokens, transformers: 32,768), keys and values in each one's default
  type: as the checkpoint for us, vLLM and transformers, float16 for llama.cpp, 8 bits for OpenVINO GenAI. Where they
  weigh most, with S, both we and OpenVINO are measured with the other's type too.
- Memory adds up a server's processes, and counts pages that they share once for each. The install size is that of the
  distribution and all that it asks for.
- Start is from the start of the process to the end of a first answer of four tokens, with weights in the page cache.

Run it again with `python -m benchmarks.compare --out docs/benchmarks`; parts of it with `--cells`, `--peers` and
`--rounds`.
"""


def number(value: float | None, digits: int = 0) -> str:
    if value is None:
        return "–"
    return f"{value:,.{digits}f}" if abs(value) >= 100 or digits > 1 else f"{value:,.{max(digits, 1)}f}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def render(results: Results, picture: str) -> str:
    """The whole page. ``picture``: file name of the picture beside it."""
    claims = all_claims(results)
    sections = [
        "# Speed on a CPU\n",
        "Written by `python -m benchmarks.compare`; edits are lost.\n",
        _verdict(claims),
        _trials(results),
        f"![steady decode and end-to-end rates]({picture})\n",
        _claims(claims),
        _machines(results),
        _decode(results),
        _end_to_end(results),
        _prompts(results),
        _mixed(results),
        _small(results),
        _costs(results),
        _failures(results),
        METHOD,
    ]
    return "\n".join(section for section in sections if section)


def _verdict(claims: Sequence[Claim]) -> str:
    met, measured = (sum(c.verdict in kinds for c in claims) for kinds in (("met",), ("met", "not met")))
    return f"Of {len(claims)} claims {measured} were measured and {met} are met.\n"


def _trials(results: Results) -> str:
    trials = [run for run, about in results.runs.items() if about["trial"]]
    return (
        f"**Trial of the machinery, with model S and shorter prompts and answers: {', '.join(trials)}.**\n"
        if trials
        else ""
    )


def _claims(claims: Sequence[Claim]) -> str:
    rows = []
    for claim in claims:
        limit = f"{claim.kind} {claim.limit:g} {claim.unit}".strip()
        aim = f"{claim.aim:g}: {claim.aim_verdict}" if claim.aim_verdict else ""
        verdict = f"**{claim.verdict}**" if claim.verdict == "not met" else claim.verdict
        rows.append([claim.text, number(claim.measured, 2), limit, verdict, aim, ", ".join(claim.runs)])
    return "## Claims\n\n" + table(("claim", "measured", "must be", "", "aim", "run"), rows)


def _machines(results: Results) -> str:
    rows = []
    for run, about in results.runs.items():
        machine = results.machine(run)
        read = ", ".join(f"{value / 1e9:.1f}" for value in machine.bytes_per_second.values())
        flops = ", ".join(f"{value / 1e9:.0f}" for value in machine.flop_per_second.values())
        matmul = f"{machine.matmul_flop_per_second / 1e9:.0f}"
        place = f"{machine.processor}, {machine.cores} cores, {machine.instructions}"
        rows.append([run, about["date"], about["commit"], place, read, flops, matmul, machine.measured_with])
    headings = ("run", "date", "commit", "machine", "read GB/s", "float32 GFLOP/s", "torch matmul", "measured with")
    threads = "Reading and multiply-adds are with 1, 2, … threads, each the best of the run.\n"
    beside = [limits for cell in results.turns for name in results.turns[cell] for limits in results.limits(cell, name)]
    parts = ["## Machine\n", table(headings, rows), threads]
    if beside:
        reads, computes = ([getattr(limits, what) / 1e9 for limits in beside] for what in ("read", "compute"))
        parts.append(
            f"Beside the turns, reading went from {min(reads):.1f} to {max(reads):.1f} GB/s, multiply-adds from "
            f"{min(computes):.0f} to {max(computes):.0f} GFLOP/s.\n"
        )
    return "\n".join(parts)


def _range(results: Results, cell: str, contender: str, *path: str) -> str:
    """The median, with the lowest and highest where they differ by more than ``SPREAD``."""
    values = results.rounds(cell, contender, *path)
    middle = results.figure(cell, contender, *path)
    if middle is None:
        return "–"
    mark = " †" if results.is_disturbed(cell, contender) else ""
    if max(values) > (1 + SPREAD) * min(values):
        return f"{number(middle)} ({number(min(values))}–{number(max(values))}){mark}"
    return number(middle) + mark


def _rows(results: Results, cells: Sequence[str], columns: Sequence[Column]) -> str:
    names = dict.fromkeys(name for cell in cells for name in CELLS[cell].contenders)
    rows = []
    for name in names:
        runs = sorted({run for cell in cells if (run := results.run_of(cell, name))})
        if runs:
            rows.append([CONTENDERS[name].label, *(value(name) for _, value in columns), ", ".join(runs)])
    return table(("", *(heading for heading, _ in columns), "run"), rows) if rows else "Not measured.\n"


def _steady(results: Results, cell: str) -> Column:
    def value(name: str) -> str:
        share = results.share(cell, name)
        rate = _range(results, cell, name, "steady_decode", "tokens_per_second")
        return rate if share is None else f"{rate}, {share:.0%}"

    return f"batch {CELLS[cell].concurrency}", value


def _plain(results: Results, cell: str, heading: str, *path: str) -> Column:
    return heading, lambda name: _range(results, cell, name, *path)


def _roofs(results: Results, cells: Sequence[str], contenders: Sequence[str]) -> str:
    lines = []
    for name in contenders:
        roofs = [roof for cell in cells if (roof := results.roof(cell, name))]
        if roofs:
            text = ", ".join(f"{number(roof.tokens_per_second)} ({roof.bound})" for roof in roofs)
            lines.append(f"Roofline of {CONTENDERS[name].dtype} at the machine's best: {text} tokens/s.\n")
    return "\n".join(lines)


def _decode(results: Results) -> str:
    whole, quantized = (tuple(f"{kind}-{batch}" for batch in (1, 8, 32)) for kind in ("decode", "int8"))
    return "\n".join(
        [
            "## Steady decode, model M\n",
            "Tokens per second, and the share of the roofline of the turn. Prompts of 128 tokens, answers of 64.\n",
            _roofs(results, whole, ("penstock", "penstock-bf16")),
            _rows(results, whole, [_steady(results, cell) for cell in whole]),
            "Weights in int8:\n",
            _roofs(results, quantized, ("penstock-int8",)),
            _rows(results, quantized, [_steady(results, cell) for cell in quantized]),
        ]
    )


def _end_to_end(results: Results) -> str:
    sections = ["## End to end, model M\n", "Output tokens per second, prompts of 128 and answers of 64 in all.\n"]
    for kind in ("decode", "int8"):
        cells = [f"{kind}-{batch}" for batch in (1, 8, 32)]
        columns = [
            *(_plain(results, c, f"{CELLS[c].concurrency} at a time", "output_tokens_per_second") for c in cells),
            _plain(results, cells[2], "TTFT p50 at 32, ms", "ttft_ms", "p50"),
            _plain(results, cells[2], "ITL p50 at 32, ms", "itl_ms", "p50"),
            _plain(results, cells[2], "ITL p99 at 32, ms", "itl_ms", "p99"),
        ]
        sections.append(_rows(results, cells, columns))
    return "\n".join(sections)


def _prompts(results: Results) -> str:
    columns = [
        _plain(results, "prompts", "prompts of 1024: input tokens/s", "prefill_tokens_per_second"),
        _plain(results, "prefix", "shared prefix: output tokens/s", "output_tokens_per_second"),
    ]
    cell = CELLS["prefix"]
    ideal = ideal_prefix_rate(results)
    said = (
        f"If the prefix is computed once and nothing else costs anything, our own rates of reading prompts and of "
        f"decoding 8 allow {number(ideal)} output tokens per second.\n"
        if ideal
        else ""
    )
    text = (
        f"Input is counted to the last first token. Sharing: {cell.requests} requests at once with {cell.shared} "
        f"tokens in common, {cell.prompt - cell.shared} of their own, and answers of {cell.output}.\n"
    )
    return "\n".join(
        ["## Long and shared prompts, model M\n", text, _rows(results, ("prompts", "prefix"), columns), said]
    )


def _mixed(results: Results) -> str:
    cell = CELLS["mixed"]
    text = (
        f"{cell.requests} streams of {cell.output} tokens; once all have begun, {cell.late} prompts of "
        f"{cell.late_prompt} arrive, {cell.every:g} s apart. Inter-token latency of the streams from then on.\n"
    )
    columns = [
        *(_plain(results, "mixed", f"ITL {share}, ms", "stream_itl_ms", share) for share in ("p50", "p90", "p99")),
        _plain(results, "mixed", "TTFT of the long prompts p50, ms", "late", "ttft_ms", "p50"),
    ]
    return "\n".join(["## Long prompts among streams, model M\n", text, _rows(results, ("mixed",), columns)])


def _small(results: Results) -> str:
    cells = [f"small-{batch}" for batch in (1, 8, 32)]
    columns = [_plain(results, c, f"{CELLS[c].concurrency} at a time", "output_tokens_per_second") for c in cells]
    text = "Output tokens per second end to end, prompts of 128 and answers of 64: here overhead shows.\n"
    return "\n".join(["## Model S\n", text, _rows(results, cells, columns)])


def _costs(results: Results) -> str:
    rows = []
    for name, contender in CONTENDERS.items():
        start = results.starts.get("M", {}).get(name)
        install = results.installs.get(name)
        memory = [results.memory(name, kind) for kind in ("resident", "peak")]
        if not (start or install):
            continue
        used = {entry["run"] for entry in (start, install) if entry}
        rows.append(
            [
                contender.label,
                install["version"] if install else "–",
                number(start["seconds"], 1) if start else "–",
                *(number(None if value is None else value / 2**20) for value in memory),
                number(install["bytes"] / 2**20) if install else "–",
                ", ".join(sorted(used)),
            ]
        )
    headings = ("", "version", "start on M, s", "resident on M, MiB", "at its peak", "install, MiB", "run")
    return "## Start, memory, size\n\n" + (table(headings, rows) if rows else "Not measured.\n")


def _failures(results: Results) -> str:
    if not results.failures:
        return ""
    rows = [[failure["where"], failure["why"].replace("\n", " ")[:300], failure["run"]] for failure in results.failures]
    return "## What did not run\n\n" + table(("where", "why", "run"), rows)


def contents() -> str:
    """Names of cells, for ``--help``."""
    lines = [f"  {cell.name:<12}{cell.title}" for phase in PHASES for cell in phase.cells]
    return "\n".join([*lines, *(f"  {name:<12}{title}" for name, title in SPECIAL.items())])
