"""How much of a step prompts get while streams wait for it."""

from __future__ import annotations

import pytest
from scheduler_harness import Harness

from engine.prefill_policy import PromptShare

A = list(range(10, 40))
B = list(range(50, 80))


def with_streams(count: int, **settings: int):
    """An engine whose step has as many streams, and nothing else."""
    h = Harness(max_num_batched_tokens=16, prompt_share=PromptShare(3), **settings)
    for name in "uvwxyz"[:count]:
        h.start(name, [ord(name) % 90], max_tokens=50)
    h.step()
    assert set(h.query_lens()) == set("uvwxyz"[:count])
    return h


def prompt_lens(h) -> dict[str, int]:
    return {name: tokens for name, tokens in h.query_lens().items() if len(name) > 1}


def test_beside_streams_all_prompts_together_get_a_few_tokens() -> None:
    h = with_streams(3)
    h.start("p1", A[:5])
    h.start("p2", B[:4])
    lens = []
    for _ in range(3):
        h.step()
        assert set("uvw") < set(h.query_lens())
        lens.append(prompt_lens(h))
    # The fourth stream begins in the second step; from the third on p1 is a stream itself.
    assert lens == [{"p1": 3}, {"p1": 2, "p2": 1}, {"p1": 1, "p2": 3}]


def test_many_streams_put_up_with_more_prompt_tokens() -> None:
    h = Harness(max_num_batched_tokens=16, prompt_share=PromptShare(3, for_each_stream=2))
    lens = []
    for name in "uvwx":
        h.start(name, [ord(name) % 90], max_tokens=50)
        h.step()
        h.step()
        h.start(f"p{name}", A[:20], max_tokens=1)
        h.step()
        lens.append(prompt_lens(h)[f"p{name}"])
        h.abort(f"p{name}")
    assert lens == [3, 4, 6, 8]


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 2), (0.5, 16), (1.0, 32), (9.0, 36)])
def test_what_takes_little_time_is_not_held_back(seconds, expected) -> None:
    """A step of the harness takes a second."""
    h = Harness(max_num_batched_tokens=37, prompt_share=PromptShare(2, seconds=seconds))
    h.start("u", [*A, 1, 2], max_tokens=50)
    h.step()
    h.start("long", B * 4)
    h.step()
    assert h.query_lens() == {"u": 1, "long": expected}


def test_without_a_stream_prompts_get_the_whole_budget() -> None:
    h = Harness(max_num_batched_tokens=16, prompt_share=PromptShare(3))
    h.start("p1", A[:20])
    h.step()
    assert h.query_lens() == {"p1": 16}
    h.start("p2", B[:20])
    h.step()
    assert h.query_lens() == {"p1": 4, "p2": 12}


def test_if_as_many_begin_as_there_are_streams_prompts_that_fit_are_taken_whole() -> None:
    h = with_streams(3)
    h.start("p1", A[:5])
    h.start("p2", B[:6])
    h.start("p3", A[10:13], max_tokens=1)
    h.step()
    # 16 - 3 - 5 - 6 leave 2: p3 does not fit whole.
    assert prompt_lens(h) == {"p1": 5, "p2": 6, "p3": 2}
    h.step()
    assert prompt_lens(h) == {"p1": 1, "p2": 1, "p3": 1}


def test_in_a_burst_what_does_not_fit_still_gets_a_few_tokens() -> None:
    h = with_streams(2)
    h.start("long", A[:20])
    h.start("p1", B[:6])
    h.start("p2", B[10:20])
    h.step()
    # 16 - 2 - 3 - 6 leave 5 for p2, which is not enough, and of the few nothing is left.
    assert prompt_lens(h) == {"long": 3, "p1": 6}
    h.step()
    # Three streams by now, and two that begin: fewer, but the burst is carried through.
    assert prompt_lens(h) == {"long": 3, "p1": 1, "p2": 10}


def test_a_burst_is_carried_through_until_few_are_left() -> None:
    h = with_streams(4, max_num_seqs=16)
    for number in range(6):
        h.start(f"p{number}", A[number : number + 5])
    lens = []
    for _ in range(4):
        h.step()
        lens.append({name: tokens for name, tokens in prompt_lens(h).items() if tokens > 1})
    # Two more streams at each step: 4 to 6, 6 to 4, 8 to 2, and then none is left.
    assert lens == [{"p0": 5, "p1": 5, "p2": 2}, {"p2": 3, "p3": 5, "p4": 2}, {"p4": 3, "p5": 5}, {}]


def test_few_that_begin_beside_many_streams_make_no_burst() -> None:
    h = with_streams(4)
    h.start("p0", A[:8])
    h.start("p1", B[:8])
    h.step()
    assert prompt_lens(h) == {"p0": 3}


def test_in_a_burst_the_rest_of_a_prompt_is_taken_whole_once_it_fits() -> None:
    h = with_streams(2)
    h.start("p1", A[:15])
    h.start("p2", B[:15])
    h.step()
    assert prompt_lens(h) == {"p1": 3}
    h.step()
    assert prompt_lens(h) == {"p1": 12, "p2": 2}


def test_prompts_of_one_token_are_prompts() -> None:
    h = with_streams(5, max_num_seqs=16)
    for number in range(4):
        h.start(f"p{number}", [number])
    h.step()
    assert prompt_lens(h) == {"p0": 1, "p1": 1, "p2": 1}


def test_a_prompt_longer_than_a_step_stays_in_chunks_to_its_end() -> None:
    h = with_streams(1)
    h.start("long", A[:17], max_tokens=2)
    lens = []
    while "long" not in h.outputs:
        h.step()
        lens.append(prompt_lens(h)["long"])
    assert lens == [3, 3, 3, 3, 3, 2]


def test_those_that_find_no_slot_make_no_burst() -> None:
    h = with_streams(2, max_num_seqs=3)
    for number in range(4):
        h.start(f"p{number}", A[number : number + 8])
    h.step()
    assert prompt_lens(h) == {"p0": 3}


def test_what_is_computed_again_counts_as_prompt() -> None:
    h = with_streams(2)
    h.start("again", A[:4], prefix=B[:4])
    h.step()
    assert prompt_lens(h) == {"again": 3}


def test_a_stream_that_goes_on_elsewhere_is_no_prompt_where_all_but_its_last_token_is_found() -> None:
    h = with_streams(3)
    h.start("once", A[:8], max_tokens=2)
    while h.scheduler.num_pending > 3:
        h.step()
    h.start("long", B[:20])
    h.start("again", A[:8], prefix=h.tokens("once")[:1], max_tokens=2)
    h.step()
    assert prompt_lens(h) == {"long": 3, "again": 1}
