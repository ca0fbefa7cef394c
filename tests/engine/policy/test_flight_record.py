"""What a dead engine was at, read from the memory that it shared."""

from __future__ import annotations

import os
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.flight_record import FlightRecord, create, read, union

ROWS = st.lists(st.tuples(st.text("abcdefgh0123456789-:é", min_size=1, max_size=60), st.integers(0, 2**31 - 1)))


def write(record: FlightRecord, rows: dict[str, int]) -> None:
    record.write(tuple(rows), np.array(list(rows.values()), np.int32))


def once(rows: dict[str, int]) -> dict[str, tuple[int, ...]]:
    return {name: (tokens,) for name, tokens in rows.items()}


@given(st.lists(ROWS.filter(bool).map(dict), min_size=1, max_size=5))
def test_what_was_written_last_is_read(steps: list[dict[str, int]]) -> None:
    descriptor = create()
    try:
        record = FlightRecord(descriptor)
        for rows in steps:
            write(record, rows)
            assert read(descriptor) == once(rows)
            write(record, dict.fromkeys(rows, 5))
            assert read(descriptor) == dict.fromkeys(rows, (5,)), "the names stay"
            record.clear()
            assert read(descriptor) is None
    finally:
        os.close(descriptor)


def test_as_many_rows_as_there_may_be() -> None:
    descriptor = create()
    record = FlightRecord(descriptor)
    write(record, {"a": 1})
    rows = {f"chatcmpl-{number:032x}:0": number for number in range(4096)}
    write(record, rows)
    assert read(descriptor) == once(rows)
    os.close(descriptor)


@pytest.mark.parametrize(
    "memory",
    [
        b"",
        b"\1\0\0",
        bytes(4096),
        struct.pack("<III", 1, 2**31, 5) + bytes(100),
        struct.pack("<III", 1, 3, 2**32 - 1) + bytes(100),
        struct.pack("<III", 1, 3, 4) + bytes(100),
        b"\xff" * 4096,
    ],
)
def test_what_makes_no_sense_says_nothing(memory: bytes) -> None:
    descriptor = create()
    os.write(descriptor, memory)
    assert read(descriptor) is None
    os.close(descriptor)


def test_names_that_are_no_text_are_nobodys() -> None:
    descriptor = create()
    os.write(descriptor, struct.pack("<IIIi", 1, 1, 2, 7) + b"\xff\xfe")
    assert list(read(descriptor).values()) == [(7,)]
    os.close(descriptor)


def test_several_steps_under_way_are_told_of_together() -> None:
    def rows(*numbers: int) -> tuple[tuple[str, ...], np.ndarray]:
        return tuple(f"r{number}" for number in numbers), np.array(numbers, np.int32)

    names, tokens = union([rows(1, 2), rows(3), rows(4, 5)])
    assert names == ("r1", "r2", "r3", "r4", "r5") and tokens.tolist() == [1, 2, 3, 4, 5]
    assert tokens.dtype == np.int32
