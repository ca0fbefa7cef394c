"""Event ids as text, and what each says its reader has seen."""

from __future__ import annotations

import pytest

from gateway.errors import InvalidRequest
from gateway.protocol.event_ids import EventIds, resume_mode


def test_an_id_has_a_part_for_each_choice():
    ids = EventIds(3)
    assert ids.id == b"-.-.-"
    assert ids.advance(0, 0)
    assert ids.advance(1, 12)
    assert ids.id == b"0.12.-"
    assert ids.advance(1, 12, ended=True)
    assert ids.id == b"0.12f.-"
    assert ids.num_tokens == [0, 12, 0]
    assert ids.finish()
    assert ids.id == b"end"


@pytest.mark.parametrize("text", ["-.-.-", "0.12.-", "7f.12f.0", "end"])
def test_what_is_parsed_reads_the_same(text):
    assert EventIds.parse(text, 3, "p").id == text.encode()


def test_what_was_seen_is_not_sent_again():
    seen = EventIds.parse("5.3f", 2, "p")
    assert not seen.advance(0, 0)
    assert not seen.advance(0, 5)
    assert seen.knows(0, 5, ended=False)
    assert not seen.knows(0, 5, ended=True)
    assert seen.knows(1, 3, ended=True)
    assert seen.advance(0, 5, ended=True)
    assert seen.finish()
    assert not EventIds.parse("end", 2, "p").finish()


@pytest.mark.parametrize("text", ["", "x", "1", "1.2.3", "1.", "1.-1", "1.2F", "1.٣", "1.1234567890", "end.end"])
def test_anything_else_is_refused_by_the_name_of_the_field(text):
    with pytest.raises(InvalidRequest) as caught:
        EventIds.parse(text, 2, "starting_after")
    assert (caught.value.param, caught.value.code) == ("starting_after", "invalid_event_id")


def test_the_header_says_where_ids_stand():
    assert [resume_mode(value) for value in (None, "body", "sse")] == [None, "body", "sse"]
    with pytest.raises(InvalidRequest, match="body or sse"):
        resume_mode("yes")
