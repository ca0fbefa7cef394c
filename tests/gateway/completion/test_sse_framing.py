"""Frames survive any text and any cut of the bytes: the openai client's own decoder reads back what was framed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from gateway.completion.sse import DONE, data_frame

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "\n\n",
        "\r",
        "\r\n",
        "data: [DONE]\n\n",
        "\u2028\u2029\x85\x0b\x0c",
        "\x00",
        "é👩‍👩‍👧",
        "event: ping\n\n: comment\n\n",
        "\ufeff",
    ]
)


def pieces(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    """The bytes as a network may deliver them."""
    edges = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for start, stop in itertools.pairwise(edges):
        yield data[start:stop]


@given(
    bodies=st.lists(st.dictionaries(st.sampled_from(["content", "role"]), texts), max_size=6),
    comments=st.sets(st.integers(0, 5)),
    cuts=st.lists(st.integers(0, 2000), max_size=20),
)
def test_the_client_reads_back_what_was_framed(
    bodies: list[dict[str, str]], comments: set[int], cuts: list[int]
) -> None:
    data = b""
    for number, body in enumerate(bodies):
        data += b": keep-alive\n\n" if number in comments else b""
        data += data_frame(body)
    data += DONE
    events = list(SSEDecoder().iter_bytes(pieces(data, cuts)))
    assert [event.event for event in events] == [None] * (len(bodies) + 1)
    assert [msgspec.json.decode(event.data) for event in events[:-1]] == bodies
    assert events[-1].data == "[DONE]"
    assert data.count(b"\n") == 2 * (len(bodies) + 1 + len(comments & set(range(len(bodies)))))
