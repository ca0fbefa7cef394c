"""Only a valid context whose trace is recorded counts; what is sent here is anybody's."""

import pytest

from observability.trace_context import sampled, trace_id_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_a_recorded_trace_counts() -> None:
    header = f"00-{TRACE}-{SPAN}-01"
    assert sampled(header) == header
    assert trace_id_of(header) == TRACE
    assert trace_id_of("") == ""


def test_what_a_later_version_adds_is_left_out() -> None:
    assert sampled(f"01-{TRACE}-{SPAN}-03-more") == f"01-{TRACE}-{SPAN}-03"


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01 ",
        "x" * 55,
    ],
)
def test_what_is_not_valid_or_not_recorded_does_not_count(header: str) -> None:
    assert sampled(header) == ""
