"""The load generator against a real server: the demo model."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import serving
from engine.demo_model import PATH
from tests.conftest import RunningServer


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["serving", *arguments, "--json"])
    serving.main()
    return dict(json.loads(capsys.readouterr().out))


COMMON = ("--requests", "6", "--prompt-tokens", "20-40", "--output-tokens", "12")


def test_a_closed_loop_with_text_and_a_shared_prefix(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = ("--save", str(tmp_path / "run.json"), "--picture", str(tmp_path / "run.svg"))
    how = ("--concurrency", "3", "--shared-prefix", "64", "--tokenizer", str(PATH), "--slo", "ttft=60000", *files)
    result = run(monkeypatch, capsys, "--url", server.url, *COMMON, *how)
    assert (result["requests"], result["failed"], result["output_tokens"]) == (6, 0, 72)
    assert 6 * 84 <= result["prompt_tokens"] <= 6 * 104
    # Requests of the first wave may miss what the others of it compute at the same time; later ones may not.
    assert result["cached_tokens"] >= 3 * 64
    assert result["goodput"]["share"] == 1.0
    assert 0 < result["ttft_ms"]["p50"] <= result["ttft_ms"]["p99"] <= result["e2e_ms"]["p99"]
    assert json.loads((tmp_path / "run.json").read_text()) == result
    assert (tmp_path / "run.svg").read_text().startswith("<?xml")


def test_an_open_loop_with_token_ids_shares_nothing(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(monkeypatch, capsys, "--url", server.url, *COMMON, "--rate", "50")
    assert (result["failed"], result["output_tokens"], result["cached_tokens"]) == (0, 72, 0)
    assert "steady_decode" not in result


def test_chat_with_standard_fields_alone(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    how = ("--api", "chat", "--plain", "--tokenizer", str(PATH))
    result = run(monkeypatch, capsys, "--url", server.url, *COMMON, *how)
    assert result["failed"] == 0
    assert 0 < result["output_tokens"] <= 72


def test_failures_end_with_a_status(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="status 4"):
        run(monkeypatch, capsys, "--url", server.url, *COMMON, "--model", "no-such-model")


@pytest.mark.parametrize("arguments", [("--prompt-tokens", "0"), ("--slo", "speed=1"), ("--rate", "fast")])
def test_what_makes_no_sense_is_refused(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serving.parse(arguments)
    assert arguments[0] in capsys.readouterr().err
