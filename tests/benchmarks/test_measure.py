"""One turn of one contender: its jobs, its figures, and what is done when others disturb it."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import processes
from benchmarks.comparison import measure
from benchmarks.comparison.cells import CELLS, Cell
from benchmarks.peers import worker
from benchmarks.peers.contenders import CONTENDERS
from benchmarks.peers.drivers import Job, Started, WorkerDriver
from gateway.load.client import Course, Request
from gateway.load.prompts import Prompt, PromptMaker

CELL = Cell("cell", "", (), 2, 2)


def stream(sent: float, times: list[float]) -> Course:
    return Course(sent, times[-1], times, len(times), prompt_tokens=100)


def test_a_cells_job_has_its_shape_and_a_trial_is_shorter() -> None:
    job = CELLS["prefix"].job(PromptMaker(None, seed=0))
    prompts = [request.prompt.ids for request in job.streams]
    assert {len(prompt) for prompt in prompts} == {544}
    assert len({prompt[:512] for prompt in prompts}) == 1
    assert len({prompt[512] for prompt in prompts}) == 8
    mixed = CELLS["mixed"].job(PromptMaker(None, seed=0))
    assert [len(request.prompt.ids) for request in mixed.late] == [1024, 1024]
    trial = CELLS["mixed"].job(PromptMaker(None, seed=0), scale=0.1)
    assert [len(request.prompt.ids) for request in trial.late] == [102, 102]
    assert trial.every == pytest.approx(0.5)


def test_prompts_are_counted_up_to_the_last_first_token() -> None:
    courses = [stream(10.0, [11.0, 12.0]), stream(10.0, [14.0, 15.0])]
    assert measure.figures(CELL, courses, [])["prefill_tokens_per_second"] == pytest.approx(200 / 4)


def test_streams_are_judged_while_all_are_written() -> None:
    """Their gaps before the last first token are not counted, nor those after the first end."""
    courses = [stream(0.0, [1.0, 3.0, 3.1, 3.2, 3.3]), stream(0.0, [3.0, 3.1, 3.2, 3.3, 9.0])]
    result = measure.figures(CELL, courses, [stream(3.0, [8.0])])
    assert result["stream_itl_ms"]["p99"] == pytest.approx(100)
    assert result["late"]["ttft_ms"]["p50"] == pytest.approx(5000)


class Scripted:
    """Does nothing but answer."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def run(self, job: Job) -> tuple[list[Course], list[Course]]:
        self.jobs.append(job)
        return [stream(0.0, [1.0, 1.1, 1.2, 1.3]) for _ in job.streams], []


@pytest.mark.parametrize(("foreign", "turns", "counts"), [([0.1], 1, 0.1), ([1.5, 0.1], 2, 0.1), ([0.9, 1.5], 2, 0.9)])
def test_a_disturbed_turn_is_repeated_once(
    foreign: list[float], turns: int, counts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = iter(foreign)

    class Watch:
        def __init__(self, pid: int | None) -> None:
            pass

        def cores(self) -> dict[str, float]:
            return {"server": 1.0, "client": 0.1, "foreign": next(readings), "steal": 0.0}

    monkeypatch.setattr(measure, "Watch", Watch)
    monkeypatch.setattr(measure, "wait_until_quiet", lambda limit: None)
    monkeypatch.setattr(processes, "memory", lambda pid: {"resident": 1, "peak": 2})
    driver = Scripted()
    started = Started(CONTENDERS["penstock"], 1, driver, 1.0)
    result = measure.turn(started, CELL, PromptMaker(None, seed=0), patience=1.0, scale=1.0)
    assert len(driver.jobs) == turns
    assert result["cores"]["foreign"] == counts
    assert result["disturbed"] is (counts > 0.2)
    # A second attempt that sent the same prompts would find them in the cache.
    assert len({request.prompt for job in driver.jobs for request in job.streams}) == 2 * turns


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import worker

def run(job):
    print("chatter of a library")
    if not job["streams"]:
        raise SystemExit("out of memory")
    courses = [worker.course(1.0, [2.0] * one["tokens"], 3.0, len(one["ids"])) for one in job["streams"]]
    return {"streams": courses, "late": []}

worker.serve(run)
"""


def test_a_worker_answers_jobs_and_its_chatter_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", WORKER, str(Path(worker.__file__).parent)]
    with processes.run(command, log, pipes=True) as process:
        driver = WorkerDriver.ready(process, log)
        requests = [Request(Prompt((1, 2, 3), None), tokens) for tokens in (2, 5)]
        streams, late = driver.run(Job(requests, 2, []))
        assert [(course.tokens, course.prompt_tokens) for course in streams] == [(2, 3), (5, 3)]
        assert late == []
        with pytest.raises(RuntimeError, match=r"(?s)the worker ended.*out of memory"):
            driver.run(Job([], 1, []))
    assert "chatter of a library" in log.read_text()


def test_every_contender_can_be_started_from_its_table() -> None:
    for contender in CONTENDERS.values():
        command: list[Any] = contender.command(Path("/models/M"), 8123)
        assert all(isinstance(word, str) for word in command)
        assert "/models/M" in command
        assert contender.is_library or "8123" in command
