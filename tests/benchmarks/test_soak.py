"""The long run, for some seconds: a server whose engine is killed is well, and what is not well is found."""

from __future__ import annotations

import json
import random
from pathlib import Path

import httpx
import pytest

from benchmarks import soak
from benchmarks.load.mixed import answer_of, draw_kinds


@pytest.mark.slow
def test_a_short_run_with_kills(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "soak.json"
    options = "--minutes 0.15 --clients 6 --pool 12 --kills 60 --seed 2 --sample-every 2"
    soak.main([*options.split(), "--save", str(saved)])
    result = json.loads(saved.read_text())
    assert result["outcomes"]["same"] > 0 and "failed" not in result["outcomes"]
    assert sum(result["kills"].values()) >= 1
    assert [sample["idle"] for sample in result["samples"]].count(True) >= 2
    last = result["samples"][-1]
    assert last["losses"] >= 1 and last["gateway_mib"] > 0 and last["processes"] == 2
    assert "while idle" in capsys.readouterr().out


def test_the_same_seed_draws_the_same_requests_of_every_kind() -> None:
    first, second = (draw_kinds(random.Random(5), 12) for _ in range(2))
    assert first == second
    assert len({kind.name for kind in first}) == 6 and len({kind.key for kind in first}) == 12


@pytest.mark.parametrize(
    ("outcomes", "held", "well"),
    [
        ({"same": 5, "refused": 1, "left": 2}, {}, True),
        ({"same": 5, "failed": 1}, {}, False),
        ({"same": 5, "changed": 1}, {}, False),
        ({"refused": 5}, {}, False),
        ({"same": 5}, {"kv_cache_usage_ratio": 0.1}, False),
    ],
)
def test_what_is_not_well(outcomes: dict[str, int], held: dict[str, float], well: bool) -> None:
    assert soak.is_well({"outcomes": outcomes, "samples": [{"held": {}}, {"held": held}]}) is well


def stream(*events: str) -> httpx.Response:
    text = "".join(f"data: {event}\n\n" for event in events)
    return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)


async def test_an_answer_is_the_same_however_it_was_cut() -> None:
    def delta(text: str, finish: str | None = None) -> str:
        return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})

    whole, cut = stream(delta("abc", "stop"), "[DONE]"), stream(delta("a"), delta("bc"), delta("", "stop"), "[DONE]")
    assert await answer_of(whole) == await answer_of(cut)
    for broken in (stream(delta("abc", "stop")), stream(delta("abc"), "[DONE]"), stream('{"error": {"message": "x"}}')):
        with pytest.raises(ValueError):
            await answer_of(broken)
