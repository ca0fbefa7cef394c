"""Claims and the report follow from results, and from nothing else."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.comparison import picture, report
from benchmarks.comparison.cells import CELLS, PHASES
from benchmarks.comparison.claims import Claim, all_claims, ideal_prefix_rate, weights_and_cache
from benchmarks.comparison.results import OtherMachineError, Results
from benchmarks.models import SHAPES

MACHINE = {
    "processor": "CPU",
    "cores": 2,
    "instructions": "avx2 fma",
    "bytes_per_second": {"1": 20e9, "2": 30e9},
    "flop_per_second": {"1": 100e9, "2": 200e9},
    "matmul_flop_per_second": 170e9,
    "measured_with": "C",
}
RATES = {
    "penstock": 100.0,
    "penstock-bf16": 150.0,
    "penstock-int8": 160.0,
    "penstock-kv8": 110.0,
    "vllm": 60.0,
    "transformers": 30.0,
    "generate": 25.0,
    "openvino": 80.0,
    "openvino-int8": 90.0,
    "openvino-kv32": 70.0,
    "llama.cpp": 50.0,
    "llama.cpp-q8": 100.0,
}
GIBIBYTE = 2**30


def one_round(rate: float, resident: float) -> dict[str, Any]:
    return {
        "failed": 0,
        "disturbed": False,
        "limits": [{"read": 30e9, "compute": 190e9}, {"read": 25e9, "compute": 200e9}],
        "steady_decode": {"tokens_per_second": rate, "seconds": 3.0, "streams": 8},
        "output_tokens_per_second": rate / 2,
        "prefill_tokens_per_second": rate * 2,
        "ttft_ms": {"p50": 900.0},
        "itl_ms": {"p50": 50.0, "p99": 90.0},
        "stream_itl_ms": {"p50": 50.0, "p90": 60.0, "p99": 120.0},
        "late": {"ttft_ms": {"p50": 4000.0}},
        "memory": {"resident": resident, "peak": resident + GIBIBYTE},
    }


@pytest.fixture
def results() -> Results:
    """Every cell and contender, each with its rate in two rounds that lie one in a hundred below and above."""
    turns: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in CELLS.values():
        for name in cell.contenders:
            rounds = [one_round(RATES[name] * factor, 3 * GIBIBYTE) for factor in (0.99, 1.01)]
            turns.setdefault(cell.name, {})[name] = {"run": "first", "rounds": rounds}
    return Results(
        runs={"first": {"date": "2030-01-01", "commit": "abc", "trial": False, "machine": copy.deepcopy(MACHINE)}},
        turns=turns,
        starts={"M": {name: {"run": "first", "seconds": 5.0} for name in RATES}},
        installs={"penstock": {"run": "first", "version": "1.2.3", "bytes": 2**30}},
        special={
            "start": {"run": "first", "seconds": 2.5, "rounds": [2.5]},
            "identity": {"run": "first", "compared": 6, "differing": 0},
        },
    )


def claim(results: Results, *words: str) -> Claim:
    (found,) = [one for one in all_claims(results) if all(word in one.text for word in words)]
    return found


def test_shares_are_of_the_roofline_beside_the_same_turn(results: Results) -> None:
    """Batch 8 in float32 is bound by reading: weights, and 160 tokens of keys and values for each of 8."""
    shape = SHAPES["M"]
    seconds = (4 * shape.multiplied + 8 * 160 * shape.cache_bytes(4)) / 30e9
    found = claim(results, "batch 8", "roofline")
    assert found.measured == pytest.approx(100 / (8 / seconds))
    assert (found.verdict, found.aim_verdict) == ("met", "not reached")
    results.runs["first"]["machine"]["bytes_per_second"]["2"] = 60e9
    assert claim(results, "batch 8", "roofline").measured == found.measured, "at another time it could do more"
    for one in results.turns["decode-8"]["penstock"]["rounds"]:
        one["limits"][1]["read"] = 36e9
    found = claim(results, "batch 8", "roofline")
    assert found.measured == pytest.approx(100 / (8 / seconds) * 30 / 36)
    assert found.verdict == "not met"


def test_the_lead_is_over_the_best_peer(results: Results) -> None:
    found = claim(results, "batch 8", "steady decode against openvino")
    assert found.measured == pytest.approx(100 / 80)
    assert (found.verdict, found.aim_verdict) == ("met", "not reached")
    for one in results.turns["decode-8"]["vllm"]["rounds"]:
        one["steady_decode"]["tokens_per_second"] = 101.0
    assert claim(results, "batch 8", "steady decode against vllm").verdict == "not met"


@pytest.mark.parametrize(
    ("words", "measured", "verdict"),
    [
        (("batch 1: a bf16",), 1.5, "not met"),
        (("batch 8: a bf16",), 1.5, "met"),
        (("batch 1: int8",), 1.6, "met"),
        (("batch 32: int8",), 1.6, "met"),
        (("8 requests end to end", "vllm"), 100 / 60, "met"),
        (("32 requests end to end", "openvino"), 1.25, "met"),
        (("end to end", "generate"), 4.0, "met"),
        (("prompts of 1024: input",), 1.25, "met"),
        (("sharing 512",), 100 / 60, "met"),
        (("S, float32, 8 at a time", "ours of 32"), 1.25, "met"),
        (("S, float32, 8 at a time", "both", "32 bits"), 100 / 70, "met"),
        (("S, float32, 8 at a time", "both", "8 bits"), 1.375, "met"),
        (("ITL p99",), 2.4, "met"),
        (("Start to first answer",), 2.5, "met"),
        (("answers that differ",), 0.0, "met"),
    ],
)
def test_claims_are_ratios_of_medians(results: Results, words: tuple[str, ...], measured: float, verdict: str) -> None:
    found = claim(results, *words)
    assert found.measured == pytest.approx(measured)
    assert found.verdict == verdict
    assert found.runs == ("first",)


def test_the_ideal_computes_a_shared_prefix_once(results: Results) -> None:
    """512 + 8 × 32 tokens are read at 200 a second, and 8 × 31 tokens written at 100."""
    seconds = (512 + 8 * 32) / 200 + 8 * 31 / 100
    assert ideal_prefix_rate(results) == pytest.approx(8 * 32 / seconds)
    assert claim(results, "computed once").measured == pytest.approx(8 * 32 / seconds / 50)


def test_memory_is_held_against_weights_and_cache(results: Results) -> None:
    over = (3 * GIBIBYTE - weights_and_cache("penstock")) / 2**20
    assert over == pytest.approx(2048 - SHAPES["M"].multiplied * 4 / 2**20)
    found = claim(results, "memory of penstock ")
    assert (found.measured, found.verdict) == (pytest.approx(over), "not met")


def test_nothing_is_claimed_of_what_was_not_measured() -> None:
    empty = Results()
    assert {one.verdict for one in all_claims(empty)} == {"not measured"}
    page = report.render(empty, "cpu.svg")
    assert f"Of {len(all_claims(empty))} claims 0 were measured and 0 are met." in page


def test_a_figure_is_the_median_of_undisturbed_rounds(results: Results) -> None:
    rounds = results.turns["decode-8"]["vllm"]["rounds"]
    rounds.append(one_round(10.0, 0.0) | {"disturbed": True})
    assert results.steady("decode-8", "vllm") == pytest.approx(60.0)
    assert not results.is_disturbed("decode-8", "vllm")
    for one in rounds:
        one["disturbed"] = True
    assert results.steady("decode-8", "vllm") == pytest.approx(59.4)
    assert "59.4 (10.0–60.6) †" in report.render(results, "cpu.svg")


def test_the_report_names_the_run_of_every_row(results: Results) -> None:
    second = copy.deepcopy(results)
    second.runs = {"second": second.runs["first"]}
    second.turns = {"decode-8": {"vllm": second.turns["decode-8"]["vllm"] | {"run": "second"}}}
    second.starts, second.installs, second.special = {}, {}, {}
    second.turns["decode-8"]["vllm"]["rounds"] = [one_round(110.0, 0.0)]
    results.merge(second)
    assert claim(results, "batch 8", "steady decode against vllm").runs == ("first", "second")
    assert claim(results, "batch 1", "steady decode against").runs == ("first",)
    page = report.render(results, "cpu.svg")
    (row,) = [line for line in page.splitlines() if line.startswith("| vLLM |") and "110" in line]
    assert row.endswith("| first, second |")


def test_a_run_of_which_nothing_is_left_is_forgotten(results: Results) -> None:
    again = copy.deepcopy(results)
    again.runs = {"second": again.runs["first"]}
    for place in [*again.turns.values(), *again.starts.values(), again.installs, again.special]:
        for entry in place.values():
            entry["run"] = "second"
    results.merge(again)
    assert list(results.runs) == ["second"]


@pytest.mark.parametrize("change", [{"cores": 4}, {"processor": "other"}, {"bytes_per_second": {"1": 20e9, "2": 22e9}}])
def test_results_of_another_machine_are_refused_and_nothing_is_taken(results: Results, change: dict[str, Any]) -> None:
    before = copy.deepcopy(results)
    other = copy.deepcopy(results)
    other.runs = {"second": {**other.runs["first"], "machine": MACHINE | change}}
    with pytest.raises(OtherMachineError, match="another machine"):
        results.merge(other)
    assert results == before


def test_a_failure_is_reported_until_it_was_measured(results: Results) -> None:
    failed = copy.deepcopy(results)
    failed.runs = {"second": failed.runs["first"]}
    failed.turns, failed.starts, failed.installs, failed.special = {}, {}, {}, {}
    failed.failures = [{"run": "second", "where": "mixed/vllm", "why": "it fell over"}]
    results.merge(failed)
    assert "it fell over" in report.render(results, "cpu.svg")
    third = copy.deepcopy(failed)
    third.runs = {"third": third.runs["second"]}
    third.failures = []
    third.turns = {"mixed": {"vllm": {"run": "third", "rounds": [one_round(60.0, 0.0)]}}}
    results.merge(third)
    assert results.failures == []


def test_results_survive_a_file_and_a_trial_says_so(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "deep" / "cpu.json")
    assert Results.load(tmp_path / "deep" / "cpu.json") == results
    assert "Trial" not in report.render(results, "cpu.svg")
    results.runs["first"]["trial"] = True
    assert "Trial" in report.render(results, "cpu.svg")


def test_every_table_of_the_report_is_well_formed(results: Results) -> None:
    widths: list[int] = []
    for line in report.render(results, "cpu.svg").splitlines():
        if line.startswith("|"):
            widths.append(line.count("|"))
            assert widths[-1] == widths[0], line
        else:
            widths = []


def test_the_picture_is_the_same_for_the_same_results(results: Results, tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        picture.draw(results, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "OpenVINO" in (tmp_path / "a.svg").read_text() or len((tmp_path / "a.svg").read_bytes()) > 10_000


def test_names_of_cells_are_unique_and_contenders_known() -> None:
    names = [cell.name for phase in PHASES for cell in phase.cells]
    assert len(set(names)) == len(names)
    assert {name for cell in CELLS.values() for name in (*cell.contenders, *cell.once)} <= RATES.keys()


def test_results_are_plain_json(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "cpu.json")
    assert json.loads((tmp_path / "cpu.json").read_text())["turns"]["mixed"]["penstock"]["run"] == "first"
