"""Figures of runs whose course is known."""

import pytest

from gateway.load.client import Course
from gateway.load.summary import Slo, percentile, spread, steady_decode, summarize, time_per_token


def course(sent: float, first: float, step: float, chunks: int, tokens: int | None = None) -> Course:
    times = [first + step * i for i in range(chunks)]
    return Course(sent, times[-1], times, tokens or chunks, prompt_tokens=10)


def test_percentiles_lie_between_the_nearest_two() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([0.0, 10.0], 0.9) == pytest.approx(9.0)
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([], 0.5) == 0.0


def test_spread_is_in_milliseconds() -> None:
    assert spread([0.001, 0.003]) == pytest.approx({"p50": 2.0, "p90": 2.8, "p99": 2.98, "mean": 2.0})


def test_time_per_token_does_not_depend_on_how_tokens_are_put_into_chunks() -> None:
    one_each, two_each = course(0, 1, 0.1, 21), course(0, 1, 0.2, 11, tokens=21)
    assert time_per_token(one_each) == pytest.approx(0.1)
    assert time_per_token(two_each) == pytest.approx(0.1)
    assert time_per_token(course(0, 1, 0.1, 1)) is None


def test_steady_decode_is_the_rate_of_steps_times_streams() -> None:
    assert steady_decode([course(0, 1.0, 0.1, 50) for _ in range(8)], 8) == {
        "tokens_per_second": pytest.approx(80.0),
        "seconds": pytest.approx(4.9),
        "streams": 8,
    }


def test_steady_decode_begins_with_the_last_first_token() -> None:
    """Before it the first stream is slow, because the second one's prompt is computed."""
    slow = [1.0, 2.0, 3.0]
    early = Course(0.0, 9.0, slow + [3.1 + 0.1 * i for i in range(30)], 33)
    late = course(0.0, 3.0, 0.1, 31)
    assert (steady := steady_decode([early, late], 2))
    assert steady["tokens_per_second"] == pytest.approx(20.0)
    assert steady["seconds"] == pytest.approx(3.0)


def test_steady_decode_cuts_no_step_in_two() -> None:
    """Streams whose tokens of one step come one after another keep the rate of whole steps."""
    streams = [course(0, 1.0 + 0.09 * i, 0.1, 5 + i) for i in range(2)]
    assert (steady := steady_decode(streams, 2))
    assert steady["tokens_per_second"] == pytest.approx(20.0)


def test_steady_decode_counts_tokens_rather_than_chunks() -> None:
    assert (steady := steady_decode([course(0, 1, 0.1, 40, tokens=80)], 1))
    assert steady["tokens_per_second"] == pytest.approx(20.0)


def test_steady_decode_where_chunks_hold_different_numbers_of_tokens() -> None:
    """One token, then ten in each tenth of a second, then the three that are left."""
    times = [1.0, 1.1, 1.2, 1.3, 1.33]
    one = Course(0.0, 1.33, times, tokens=34, lengths=[5, 50, 50, 50, 15])
    assert (steady := steady_decode([one], 1))
    assert steady["tokens_per_second"] == pytest.approx(100.0)


def test_steady_decode_takes_in_every_wave_of_a_closed_loop() -> None:
    waves = [course(at, at + 1, 0.1, 20) for at in (0.0, 10.0)] + [course(at, at + 1, 0.2, 10) for at in (0.0, 10.0)]
    assert (steady := steady_decode(waves, 2))
    assert steady["tokens_per_second"] == pytest.approx(15.0)
    assert steady["seconds"] == pytest.approx(2 * 1.8)


def test_no_steady_decode_where_streams_never_overlap() -> None:
    assert steady_decode([course(0, 0, 0.1, 5), course(10, 10, 0.1, 5)], 2) is None


def test_a_summary_counts_failures_apart() -> None:
    result = summarize([course(0, 1, 0.1, 11), Course(0.0, 3.0, error="status 500")], 1)
    assert (result["requests"], result["failed"], result["errors"]) == (2, 1, ["status 500"])
    assert result["output_tokens"] == 11
    assert result["seconds"] == 3.0
    assert result["output_tokens_per_second"] == pytest.approx(11 / 3)
    assert result["ttft_ms"]["p50"] == pytest.approx(1000)
    assert result["itl_ms"]["p99"] == pytest.approx(100)
    assert result["e2e_ms"]["p50"] == pytest.approx(2000)


def test_a_run_in_which_all_failed_has_no_rates() -> None:
    assert summarize([Course(0.0, 1.0, error="gone")], 1) == {"requests": 1, "failed": 1, "errors": ["gone"]}


@pytest.mark.parametrize(
    ("slo", "met"),
    [
        ("ttft=1000", True),
        ("ttft=999", False),
        ("itl=101", True),
        ("itl=99", False),
        ("tpot=101,e2e=2001", True),
        ("tpot=101,e2e=1999", False),
    ],
)
def test_an_answer_is_good_if_it_keeps_every_limit(slo: str, met: bool) -> None:
    assert Slo.parse(slo).met_by(course(0, 1, 0.1, 11)) is met


def test_itl_is_judged_by_the_answers_own_slow_gaps() -> None:
    stalled = Course(0.0, 9.0, [1.0, 1.1, 1.2, 4.0], 4)
    assert not Slo.parse("itl=200").met_by(stalled)


def test_a_failed_request_is_never_good_and_goodput_is_a_rate() -> None:
    good, failed = course(0, 1, 0.1, 11), Course(0.0, 4.0, error="gone")
    goodput = summarize([good, failed], 1, Slo.parse("ttft=5000"))["goodput"]
    assert goodput == {"slo_ms": {"ttft": 5000.0}, "requests_per_second": 0.25, "share": 0.5}


@pytest.mark.parametrize("text", ["", "ttft", "latency=5", "ttft=fast"])
def test_what_is_no_slo_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Slo.parse(text)
