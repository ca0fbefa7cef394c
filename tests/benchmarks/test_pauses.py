"""The pauses of streams at kills are found, with a real server."""

from __future__ import annotations

import pytest

from benchmarks import pauses


@pytest.mark.slow
def test_a_short_run(capsys: pytest.CaptureFixture[str]) -> None:
    pauses.main(["--streams", "2", "--kills", "2", "--serve=--standby"])
    rows = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["1", "2", "all"]
    assert all(0 < float(median) <= float(longest) for _, median, longest in rows)
