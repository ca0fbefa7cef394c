"""What sequences share: blocks computed before, and blocks that another is computing right now."""

from __future__ import annotations

from collections import Counter

import pytest
from scheduler_harness import Harness

A = list(range(10, 40))
B = list(range(50, 80))


def computed(h) -> Counter[str]:
    """Tokens computed for each name until everything is done."""
    total: Counter[str] = Counter()
    while h.scheduler.num_pending:
        h.step()
        total.update(h.query_lens())
    return total


# --- blocks computed before -------------------------------------------------------------------------------


def test_an_equal_prompt_is_found_but_for_its_last_block() -> None:
    h = Harness(max_num_batched_tokens=64)
    h.start("a", A[:16])
    h.run()
    h.start("b", A[:16])
    h.step()
    # All four blocks are there, yet something has to be computed to sample from.
    assert h.query_lens() == {"b": 4} and h.batch.context_lens.tolist() == [12]
    assert (h.plan.prefix_queries, h.plan.prefix_hits) == (16, 12)
    h.run()
    assert h.tokens("b") == h.tokens("a")


def test_only_full_blocks_up_to_the_first_difference_are_found() -> None:
    h = Harness(max_num_batched_tokens=64)
    h.start("a", A[:18])
    h.run()
    h.start("b", [*A[:9], 0, *A[10:18]])
    h.step()
    assert h.batch.context_lens.tolist() == [8]


def test_a_block_is_found_only_after_the_blocks_it_was_computed_after() -> None:
    h = Harness(max_num_batched_tokens=64)
    h.start("a", A[:4] + B[:4] + [0])
    h.run()
    h.start("b", B[:4] + A[:4] + [0])
    h.start("c", B[:4] + B[:4] + [0])
    h.step()
    assert h.batch.context_lens.tolist() == [0]
    h.step()
    assert h.batch.sequence_ids == ("b", "c") and h.batch.context_lens.tolist() == [9, 4]


def test_output_is_found_by_the_next_turn_of_a_conversation() -> None:
    h = Harness(max_num_batched_tokens=64)
    h.start("a", A[:6], max_tokens=7)
    h.run()
    h.start("b", A[:6] + h.tokens("a") + B[:3])
    h.step()
    assert h.batch.context_lens.tolist() == [12]


def test_blocks_of_a_running_sequence_are_shared_and_never_written() -> None:
    h = Harness(max_num_batched_tokens=64)
    h.start("a", A[:9], max_tokens=20)
    h.step()
    h.start("b", A[:9], choice=1, max_tokens=20)
    h.step()
    a, b = h.tables()
    assert a[:2] == b[:2] and not set(a[2:]) & set(b[2:])
    assert h.pool.references(a[0]) == 2 and h.pool.num_used == 4


def test_salts_keep_prompts_apart() -> None:
    h = Harness(max_num_batched_tokens=64)
    h.start("a", A, salt="one")
    h.run()
    h.start("b", A, salt="two")
    h.start("c", A, salt="one")
    h.step()
    assert dict(zip(h.batch.sequence_ids, h.batch.context_lens.tolist(), strict=True)) == {"b": 0, "c": 28}


def test_nothing_is_shared_or_counted_when_switched_off() -> None:
    h = Harness(max_num_batched_tokens=64, enable_prefix_caching=False)
    h.start("a", A)
    h.start("b", A)
    h.step()
    assert h.query_lens() == {"a": 30, "b": 30}
    assert (h.plan.prefix_queries, h.plan.prefix_hits) == (0, 0)
    h.run()
    assert h.pool.num_published == 0


def test_a_lookup_is_counted_once_for_an_attempt() -> None:
    h = Harness(num_blocks=6, max_num_batched_tokens=64)
    h.start("a", A[:8], max_tokens=10)
    h.start("b", B[:8], max_tokens=10)
    queries = hits = 0
    while h.scheduler.num_pending:
        h.step()
        queries, hits = queries + h.plan.prefix_queries, hits + h.plan.prefix_hits
    assert h.preemptions and (queries, hits) == (16, 0)
    assert h.outputs["b"][0].stats.cached_tokens == 0


# --- blocks that another is computing ---------------------------------------------------------------------


def test_choices_of_one_request_compute_their_prompt_once() -> None:
    h = Harness()
    for choice in range(4):
        h.start(f"c{choice}", A, choice=choice)
    total = computed(h)
    # c0 computes 30 prompt tokens, the others 2 that follow the 7 full blocks; all of them 7 output tokens.
    assert total == {"c0": 30 + 7, "c1": 2 + 7, "c2": 2 + 7, "c3": 2 + 7}
    assert [h.outputs[f"c{i}"][0].stats.cached_tokens for i in range(4)] == [0, 28, 28, 28]


def test_one_that_waits_for_another_is_overtaken() -> None:
    h = Harness()
    h.start("a", A[:13])
    h.start("waits", A[:13])
    h.start("other", B[:3])
    h.step()
    assert h.query_lens() == {"a": 13, "other": 3}
    h.step()
    assert h.query_lens() == {"a": 1, "other": 1, "waits": 1}


def test_it_waits_no_longer_than_for_what_it_shares() -> None:
    h = Harness(max_num_batched_tokens=8, num_blocks=99)
    h.start("a", A + B)
    h.start("b", A[:8] + B[:8])
    h.step()
    assert h.query_lens() == {"a": 8}
    while "b" not in h.query_lens():
        h.step()
    # Budget, not sharing, is what it waits for from the second step on: it starts as soon as "a" leaves some.
    assert h.batch.context_lens.tolist()[-1] == 8 and h.finish("a") is None


@pytest.mark.parametrize("attempt", [0, 1])
def test_when_the_other_goes_away_the_next_one_computes(attempt: int) -> None:
    h = Harness()
    for name in "abc":
        h.start(name, A)
    h.step()
    if attempt:
        h.start("a", B, attempt=attempt)
    else:
        h.abort("a")
    h.step()
    # The four blocks that "a" had finished are found; "b" computes the rest, "c" waits for it.
    assert h.query_lens()["b"] == 14 and "c" not in h.query_lens()
    h.run()
    assert h.tokens("b") == h.tokens("c")


def test_nobody_waits_for_one_that_has_computed_it_and_is_done() -> None:
    h = Harness(num_blocks=10)
    for name, prompt in (("a", A), ("b", B), ("c", A)):
        h.start(name, prompt)
        h.run(limit=20)
    # "b" has evicted most of what "a" had computed.
    assert h.outputs["c"][0].stats.cached_tokens < 12
    assert h.tokens("c") == h.tokens("a")


def test_when_the_other_is_preempted_nobody_waits_for_it() -> None:
    h = Harness(num_blocks=12, max_num_batched_tokens=8)
    h.start("old", B[:16], max_tokens=24)
    while len(h.tokens("old")) < 2:
        h.step()
    h.start("a", A[:28], max_tokens=1)
    h.start("b", A[:28], max_tokens=1)
    h.run()
    assert h.preemptions
    assert h.tokens("a") == h.tokens("b") and len(h.tokens("old")) == 24


def test_nobody_waits_for_a_block_that_cannot_be_taken_over() -> None:
    h = Harness()
    h.start("a", A[:4])
    h.start("b", A[:4])
    h.step()
    assert h.query_lens() == {"a": 4, "b": 4}


def test_the_older_does_not_wait_for_the_younger() -> None:
    h = Harness(max_num_batched_tokens=20)
    h.start("first", A[:12])
    h.start("older", A[:12] + B)
    h.start("younger", A[:12] + B[:12], prompt_logprobs=0)  # does not read the cache, so it overtakes
    h.step()
    assert h.query_lens() == {"first": 12, "younger": 8}
    h.step()
    assert h.query_lens() == {"first": 1, "younger": 16, "older": 3}
    assert h.batch.context_lens.tolist() == [12, 8, 12]


# --- log-probabilities of the prompt ----------------------------------------------------------------------


def test_prompt_logprobs_do_not_read_the_cache() -> None:
    h = Harness()
    h.start("a", A)
    h.start("b", A, prompt_logprobs=3, choice=1)
    h.run()
    (first, *others) = h.outputs["b"]
    assert len(first.prompt_logprobs) == 29 and first.stats.cached_tokens == 0
    assert {output.prompt_logprobs for output in others} == {None}
    assert {output.prompt_logprobs for output in h.outputs["a"]} == {None}


def test_prompt_logprobs_ask_for_every_token_but_the_first_once() -> None:
    h = Harness(max_num_batched_tokens=8)
    h.start("a", A[:17], prompt_logprobs=3, max_tokens=2)
    targets = []
    while h.scheduler.num_pending:
        h.step()
        targets.append([(r.row, r.top, r.targets.tolist()) for r in h.batch.prompt_logprobs])
    assert targets == [[(0, 3, A[1:9])], [(0, 3, A[9:17])], [], []]


def test_prompt_logprobs_leave_an_output_prefix_out() -> None:
    h = Harness()
    h.start("a", A[:6], prefix=B[:5], prompt_logprobs=0)
    h.step()
    assert [request.targets.tolist() for request in h.batch.prompt_logprobs] == [A[1:6]]


def test_prompt_logprobs_begin_anew_after_a_preemption() -> None:
    alone = Harness()
    alone.start("b", A[:24], prompt_logprobs=0, max_tokens=4)
    alone.run()

    h = Harness(num_blocks=10, max_num_batched_tokens=3)
    h.start("a", B[:8], max_tokens=20)
    while "a" not in h.outputs:
        h.step()
    h.start("b", A[:24], prompt_logprobs=0, max_tokens=4)
    while not h.preemptions:
        h.step()
    assert "b" not in h.outputs
    h.run()
    assert h.outputs["b"][0].prompt_logprobs == alone.outputs["b"][0].prompt_logprobs
    assert h.tokens("b") == alone.tokens("b")


def test_prompt_logprobs_of_one_token_are_an_empty_list() -> None:
    h = Harness()
    h.start("a", [1], prompt_logprobs=0, max_tokens=1)
    h.run()
    assert h.outputs["a"][0].prompt_logprobs == []


# --- a reset ----------------------------------------------------------------------------------------------


def test_after_a_reset_nothing_is_found() -> None:
    h = Harness(max_num_batched_tokens=64)
    h.start("a", A[:16])
    h.run()
    h.pool.withdraw_all()
    assert h.pool.num_published == 0
    h.start("b", A[:16])
    h.step()
    assert h.query_lens() == {"b": 16}
    h.run()
    assert h.tokens("b") == h.tokens("a")
    h.scheduler.check_integrity()


def test_who_is_running_at_a_reset_keeps_its_blocks_and_goes_on_to_fill_the_cache() -> None:
    h = Harness(max_num_batched_tokens=8)
    h.start("a", A[:24])
    h.step()
    h.pool.withdraw_all()
    h.run()
    h.start("b", A[:24])
    h.step()
    assert h.query_lens() == {"b": 8}  # its head is gone, so it begins anew
    h.run()
    assert h.tokens("b") == h.tokens("a")
    h.scheduler.check_integrity()
