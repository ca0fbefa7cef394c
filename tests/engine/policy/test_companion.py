from __future__ import annotations

import threading

import pytest

from engine.companion import Companion


def test_it_works_beside_its_owner_one_thing_after_the_other() -> None:
    seen: list[tuple[str, int]] = []
    go_on = threading.Event()

    def first() -> None:
        assert go_on.wait(10)  # The owner comes this far only if it is not held up.
        seen.append(("first", threading.get_ident()))

    with Companion("beside") as companion:
        companion.start(first)
        go_on.set()
        companion.join()
        companion.start(lambda: seen.append(("second", threading.get_ident())))
        companion.join()
    assert [name for name, _ in seen] == ["first", "second"]
    assert len({thread for _, thread in seen}) == 1 and seen[0][1] != threading.get_ident()


def test_an_exception_is_the_owner_s_and_ends_nothing() -> None:
    done: list[int] = []

    def fail() -> None:
        raise ValueError("mine")

    with Companion("beside") as companion:
        companion.start(fail)
        with pytest.raises(ValueError, match="mine"):
            companion.join()
        companion.start(lambda: done.append(1))
        companion.join()
    assert done == [1]


def test_the_thread_ends_with_its_owner_s_block() -> None:
    with Companion("short-lived") as companion:
        (thread,) = [thread for thread in threading.enumerate() if thread.name == "short-lived"]
        companion.start(lambda: None)
        companion.join()
    thread.join(10)
    assert not thread.is_alive()
