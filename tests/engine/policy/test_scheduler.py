"""One rule a test: budget and order, admission, preemption, stopping, attempts."""

from __future__ import annotations

import pytest

from engine.messages import Start
from engine.schedule import Pace, PromptShare

A = list(range(10, 40))
B = list(range(50, 80))


def undisturbed(harness, start: Start) -> list[int]:
    """The output of a choice that has a large engine to itself."""
    alone = harness()
    alone.scheduler.add(start, 0.0)
    alone.run()
    return alone.tokens(start.id)


# --- budget and order -------------------------------------------------------------------------------------


def test_a_batch_packs_chunks_of_all_sequences(harness) -> None:
    h = harness(max_num_batched_tokens=9)
    h.start("a", A[:3])
    h.start("b", B[:10])
    h.step()
    assert h.batch.sequence_ids == ("a", "b")
    assert h.batch.input_ids.tolist() == A[:3] + B[:6]
    assert h.batch.query_lens.tolist() == [3, 6] and h.batch.context_lens.tolist() == [0, 0]
    assert [len(table) for table in h.tables()] == [1, 2]
    assert [(s.row, s.position) for s in h.batch.samples] == [(0, 0)]
    h.step()
    assert h.batch.input_ids.tolist() == h.tokens("a")[:1] + B[6:10]
    assert h.batch.context_lens.tolist() == [3, 6]
    assert [(s.row, s.position) for s in h.batch.samples] == [(0, 1), (1, 0)]
    for array in (h.batch.input_ids, h.batch.query_lens, h.batch.context_lens):
        assert array.dtype == "int32"


def test_a_batch_does_not_change_after_it_is_made(harness) -> None:
    h = harness()
    h.start("a", A[:3], max_tokens=4)
    h.step()
    h.begin_step()
    batch = h.batch
    before = [array.tolist() for array in (batch.block_tables, batch.input_ids, batch.context_lens)]
    h.start("b", B[:3])
    h.prepare_step()
    h.finish_step()
    h.step()
    assert [array.tolist() for array in (batch.block_tables, batch.input_ids, batch.context_lens)] == before


def test_a_long_prompt_is_computed_in_chunks_within_the_budget(harness) -> None:
    h = harness(max_num_batched_tokens=16)
    h.start("a", A, max_tokens=1)
    assert h.step() == []
    assert h.query_lens() == {"a": 16} and h.batch.samples == ()
    (output,) = h.step()
    assert h.query_lens() == {"a": 14}
    assert (output.at, output.finish) == (0, "length")


def test_a_long_prompt_gets_what_the_streams_leave(harness) -> None:
    h = harness(max_num_batched_tokens=4)
    for name in "xy":
        h.start(name, [1], max_tokens=50)
    h.step()
    h.start("long", A, max_tokens=1)
    for _ in range(15):
        h.step()
        assert h.query_lens() == {"x": 1, "y": 1, "long": 2}
    assert h.finish("long") == "length"


def with_streams(harness, count: int, **settings: int):
    """An engine whose step has as many streams, and nothing else."""
    h = harness(max_num_batched_tokens=16, prompt_share=PromptShare(3), **settings)
    for name in "uvwxyz"[:count]:
        h.start(name, [ord(name) % 90], max_tokens=50)
    h.step()
    assert set(h.query_lens()) == set("uvwxyz"[:count])
    return h


def prompt_lens(h) -> dict[str, int]:
    return {name: tokens for name, tokens in h.query_lens().items() if len(name) > 1}


def test_beside_streams_all_prompts_together_get_a_few_tokens(harness) -> None:
    h = with_streams(harness, 3)
    h.start("p1", A[:5])
    h.start("p2", B[:4])
    lens = []
    for _ in range(3):
        h.step()
        assert set("uvw") < set(h.query_lens())
        lens.append(prompt_lens(h))
    # The fourth stream begins in the second step; from the third on p1 is a stream itself.
    assert lens == [{"p1": 3}, {"p1": 2, "p2": 1}, {"p1": 1, "p2": 3}]


def test_many_streams_put_up_with_more_prompt_tokens(harness) -> None:
    h = harness(max_num_batched_tokens=16, prompt_share=PromptShare(3, for_each_stream=2))
    lens = []
    for name in "uvwx":
        h.start(name, [ord(name) % 90], max_tokens=50)
        h.step()
        h.start(f"p{name}", A[:20], max_tokens=1)
        h.step()
        lens.append(prompt_lens(h)[f"p{name}"])
        h.abort(f"p{name}")
    assert lens == [3, 4, 6, 8]


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 2), (0.5, 16), (1.0, 32), (9.0, 36)])
def test_what_takes_little_time_is_not_held_back(harness, seconds, expected) -> None:
    """A step of the harness takes a second."""
    h = harness(max_num_batched_tokens=37, prompt_share=PromptShare(2, seconds=seconds))
    h.start("u", [*A, 1, 2], max_tokens=50)
    h.step()
    h.start("long", B * 4)
    h.step()
    assert h.query_lens() == {"u": 1, "long": expected}


def test_the_pace_follows_steps_of_many_tokens() -> None:
    pace = Pace()
    pace.record(1, 60.0)
    assert pace.tokens_in(5.0) == 0
    for _ in range(50):
        pace.record(100, 1.0)
    assert pace.tokens_in(0.5) == 50
    for _ in range(50):
        pace.record(200, 1.0)
        pace.record(2, 1.0)
    assert pace.tokens_in(0.5) in (99, 100)


def test_without_a_stream_prompts_get_the_whole_budget(harness) -> None:
    h = harness(max_num_batched_tokens=16, prompt_share=PromptShare(3))
    h.start("p1", A[:20])
    h.step()
    assert h.query_lens() == {"p1": 16}
    h.start("p2", B[:20])
    h.step()
    assert h.query_lens() == {"p1": 4, "p2": 12}


def test_if_as_many_begin_as_there_are_streams_prompts_that_fit_are_taken_whole(harness) -> None:
    h = with_streams(harness, 3)
    h.start("p1", A[:5])
    h.start("p2", B[:6])
    h.start("p3", A[10:13], max_tokens=1)
    h.step()
    # 16 - 3 - 5 - 6 leave 2: p3 does not fit whole.
    assert prompt_lens(h) == {"p1": 5, "p2": 6, "p3": 2}
    h.step()
    assert prompt_lens(h) == {"p1": 1, "p2": 1, "p3": 1}


def test_in_a_burst_what_does_not_fit_still_gets_a_few_tokens(harness) -> None:
    h = with_streams(harness, 2)
    h.start("long", A[:20])
    h.start("p1", B[:6])
    h.start("p2", B[10:20])
    h.step()
    # 16 - 2 - 3 - 6 leave 5 for p2, which is not enough, and of the few nothing is left.
    assert prompt_lens(h) == {"long": 3, "p1": 6}
    h.step()
    # Three streams by now, and two that begin: no burst any more.
    assert prompt_lens(h) == {"long": 3, "p1": 1}


def test_in_a_burst_the_rest_of_a_prompt_is_taken_whole_once_it_fits(harness) -> None:
    h = with_streams(harness, 2)
    h.start("p1", A[:15])
    h.start("p2", B[:15])
    h.step()
    assert prompt_lens(h) == {"p1": 3}
    h.step()
    assert prompt_lens(h) == {"p1": 12, "p2": 2}


def test_prompts_of_one_token_are_prompts(harness) -> None:
    h = with_streams(harness, 5, max_num_seqs=16)
    for number in range(4):
        h.start(f"p{number}", [number])
    h.step()
    assert prompt_lens(h) == {"p0": 1, "p1": 1, "p2": 1}


def test_a_prompt_longer_than_a_step_stays_in_chunks_to_its_end(harness) -> None:
    h = with_streams(harness, 1)
    h.start("long", A[:17], max_tokens=2)
    lens = []
    while "long" not in h.outputs:
        h.step()
        lens.append(prompt_lens(h)["long"])
    assert lens == [3, 3, 3, 3, 3, 2]


def test_those_that_find_no_slot_make_no_burst(harness) -> None:
    h = with_streams(harness, 2, max_num_seqs=3)
    for number in range(4):
        h.start(f"p{number}", A[number : number + 8])
    h.step()
    assert prompt_lens(h) == {"p0": 3}


def test_what_is_computed_again_counts_as_prompt(harness) -> None:
    h = with_streams(harness, 2)
    h.start("again", A[:4], prefix=B[:4])
    h.step()
    assert prompt_lens(h) == {"again": 3}


def test_a_stream_that_goes_on_elsewhere_is_no_prompt_where_all_but_its_last_token_is_found(harness) -> None:
    h = with_streams(harness, 3)
    h.start("once", A[:8], max_tokens=2)
    while h.scheduler.num_pending > 3:
        h.step()
    h.start("long", B[:20])
    h.start("again", A[:8], prefix=h.tokens("once")[:1], max_tokens=2)
    h.step()
    assert prompt_lens(h) == {"long": 3, "again": 1}


def test_a_stream_goes_before_an_older_prompt(harness) -> None:
    h = harness(max_num_batched_tokens=12)
    h.start("first", A[:8])
    h.start("long", A[:8] + B)  # waits for the blocks of the first, so the stream overtakes it
    h.start("stream", [1])
    h.step()
    assert h.query_lens() == {"first": 8, "stream": 1}
    for _ in range(3):
        h.step()
        assert h.query_lens() == {"first": 1, "stream": 1, "long": 10}


def test_admission_is_first_come_first_served(harness) -> None:
    h = harness(num_blocks=8, max_num_batched_tokens=64)
    h.start("a", A[:20], max_tokens=1)
    h.start("large", B[:16], max_tokens=1)
    h.start("small", [1], max_tokens=1)
    h.step()
    # "small" would fit, but would then keep overtaking "large" for as long as small ones arrive.
    assert h.query_lens() == {"a": 20}
    h.step()
    assert h.query_lens() == {"large": 16, "small": 1}


def test_a_sequence_starts_only_when_all_its_known_tokens_fit(harness) -> None:
    h = harness(num_blocks=8, max_num_batched_tokens=24)
    h.start("a", A[:20], max_tokens=3)
    h.start("b", B[:16], max_tokens=1)
    h.step()
    assert h.query_lens() == {"a": 20}
    assert h.scheduler.num_waiting == 1


def test_at_most_max_num_seqs_run_at_once(harness) -> None:
    h = harness(max_num_seqs=2)
    for name in "abc":
        h.start(name, [1], max_tokens=2)
    h.step()
    assert list(h.query_lens()) == ["a", "b"]
    h.run()
    assert h.finish("c") == "length"


# --- preemption -------------------------------------------------------------------------------------------


def test_the_youngest_is_preempted_and_nobody_s_tokens_change(harness) -> None:
    h = harness(num_blocks=6, max_num_batched_tokens=64)
    starts = [h.start(name, prompt, max_tokens=10) for name, prompt in (("a", A[:8]), ("b", B[:8]), ("c", [1, 2, 3]))]
    h.step()
    assert len(h.batch.sequence_ids) == 3
    while not h.preemptions:
        h.step()
    assert set(h.query_lens()) == {"a", "b"} and h.scheduler.num_waiting == 1
    h.run()
    assert h.preemptions > 1
    for start in starts:
        assert h.tokens(start.id) == undisturbed(harness, start)
        assert [output.at for output in h.outputs[start.id]] == list(range(10))
    assert h.pool.num_used == 0


def test_a_preempted_sequence_goes_before_later_arrivals(harness) -> None:
    h = harness(num_blocks=6, max_num_batched_tokens=64, max_num_seqs=2)
    h.start("a", A[:8], max_tokens=10)
    h.start("b", B[:8], max_tokens=10)
    h.start("late", [1], max_tokens=1)
    while not h.preemptions:
        h.step()
    # A slot and a block are free, and yet:
    assert h.pool.num_free > 0 and set(h.query_lens()) == {"a"}
    while "late" not in h.query_lens():
        h.step()
    assert "b" in h.query_lens()


def test_what_is_computed_again_is_mostly_found_in_the_cache(harness) -> None:
    h = harness(num_blocks=7, max_num_batched_tokens=64)
    h.start("a", A[:8], max_tokens=12)
    h.start("b", B[:8], max_tokens=12)
    while not h.preemptions:
        h.step()
    while "b" not in h.query_lens():
        h.step()
    computed = h.query_lens()["b"]
    assert computed < 8
    assert h.batch.context_lens.tolist()[-1] >= 8
    # A recomputed output token counts as prompt; the newest one does not.
    assert h.plan.decode_tokens == len(h.batch.sequence_ids)


def test_a_preempted_sequence_gives_back_the_budget_it_was_given(harness) -> None:
    h = harness(num_blocks=12, max_num_batched_tokens=20)
    h.start("first", A[:8], max_tokens=1)
    h.start("long", A[:8] + B[:20])
    for name in "wxyz":
        h.start(name, [ord(name) % 90] * 3)
    h.step()
    h.step()
    assert h.query_lens() == {"w": 1, "x": 1, "y": 1, "z": 1, "long": 16}
    h.step()
    # "y" takes the block of "z" and is planned, and then "long", which is older, needs it.
    assert h.query_lens() == {"w": 1, "x": 1, "long": 4}
    assert h.preemptions == 2 and h.plan.budget == 20 - 6
    h.run()


# --- when a choice ends -----------------------------------------------------------------------------------


def test_max_tokens_ends_with_length(harness) -> None:
    h = harness()
    h.start("a", A, max_tokens=3)
    h.run()
    assert len(h.tokens("a")) == 3 and h.finish("a") == "length"
    assert [output.finish for output in h.outputs["a"]][:2] == [None, None]


def test_a_stop_token_ends_with_stop_and_is_sent(harness) -> None:
    expected = undisturbed(harness, harness().start("a", A))
    h = harness()
    h.start("a", A, stop_token_ids=(expected[2],))
    h.run()
    assert h.tokens("a") == expected[:3] and h.finish("a") == "stop"


def test_a_stop_token_at_the_greatest_length_is_a_stop(harness) -> None:
    expected = undisturbed(harness, harness().start("a", A, max_tokens=3))
    h = harness()
    h.start("a", A, max_tokens=3, stop_token_ids=(expected[2],))
    h.run()
    assert h.finish("a") == "stop"


@pytest.mark.parametrize(("min_tokens", "length"), [(2, 3), (3, 8)])
def test_no_stop_token_counts_before_min_tokens(harness, min_tokens: int, length: int) -> None:
    expected = undisturbed(harness, harness().start("a", A))
    assert expected.count(expected[2]) == 1
    h = harness()
    h.start("a", A, min_tokens=min_tokens, stop_token_ids=(expected[2],))
    h.run()
    assert h.tokens("a") == expected[:length]


def test_max_tokens_of_zero_computes_the_prompt_and_samples_nothing(harness) -> None:
    h = harness(max_num_batched_tokens=16)
    h.start("a", A, max_tokens=0, prompt_logprobs=0)
    h.run()
    (output,) = h.outputs["a"]
    assert (output.at, output.ids, output.finish) == (0, [], "length")
    assert len(output.prompt_logprobs) == len(A) - 1


# --- attempts and aborts ----------------------------------------------------------------------------------


def test_output_prefix_is_output_and_not_prompt(harness) -> None:
    expected = undisturbed(harness, harness().start("a", A))
    h = harness()
    h.start("a", A, attempt=1, prefix=expected[:3], presence_penalty=1.0)
    while not h.step():
        pass
    (sample,) = h.batch.samples
    assert sample.position == 3
    assert sample.prompt_ids.tolist() == A and sample.output_ids.tolist()[:3] == expected[:3]
    h.run()
    assert h.outputs["a"][0].at == 3
    assert expected[:3] + h.tokens("a") == expected


def test_min_tokens_counts_the_output_prefix(harness) -> None:
    expected = undisturbed(harness, harness().start("a", A))
    h = harness()
    h.start("a", A, prefix=expected[:2], min_tokens=2, stop_token_ids=(expected[2],))
    h.run()
    assert h.tokens("a") == expected[2:3] and h.finish("a") == "stop"


@pytest.mark.parametrize(("params", "finish"), [({"max_tokens": 2}, "length"), ({"stop_token_ids": (7,)}, "stop")])
def test_an_output_prefix_that_is_complete_only_ends(harness, params: dict[str, object], finish: str) -> None:
    h = harness()
    h.start("a", A[:5], prefix=[6, 7], **params)
    h.run()
    (output,) = h.outputs["a"]
    assert (output.at, output.ids, output.finish) == (2, [], finish)


def test_a_higher_attempt_replaces_and_others_are_ignored(harness) -> None:
    h = harness()
    h.start("a", A, attempt=2)
    h.step()
    h.start("a", B, attempt=2)
    h.start("a", B, attempt=1)
    h.step()
    assert h.outputs["a"][-1].attempt == 2 and h.scheduler.num_pending == 1
    h.start("a", B, attempt=3, prefix=[1, 2])
    assert h.scheduler.num_pending == 1 and h.pool.num_used == 0
    h.step()
    assert h.batch.input_ids.tolist() == B[:16]
    h.run()
    assert {output.attempt for output in h.outputs["a"]} == {2, 3}
    assert [output.at for output in h.outputs["a"] if output.attempt == 3] == [2, 3, 4, 5, 6, 7]


def test_abort_frees_the_blocks_at_once(harness) -> None:
    h = harness(max_num_seqs=1)
    h.start("running", A)
    h.start("waiting", B)
    h.step()
    h.abort("running", attempt=1)
    h.abort("unknown")
    assert h.pool.num_used == 4 and h.scheduler.num_pending == 2
    h.abort("running")
    h.abort("running")
    assert h.pool.num_used == 0
    h.abort("waiting")
    assert h.scheduler.num_pending == h.scheduler.num_waiting == h.scheduler.num_running == 0


# --- what is reported -------------------------------------------------------------------------------------


def test_statistics_of_a_choice_and_a_step(harness) -> None:
    h = harness(max_num_seqs=1)
    h.start("a", A, max_tokens=2)
    h.start("b", A, max_tokens=2)
    started = []
    for _ in range(4):
        h.step()
        started.append(h.plan.started)
    assert started == [["a"], [], [], ["b"]]
    h.run()
    a, b = h.outputs["a"][0].stats, h.outputs["b"][0].stats
    assert (a.queue_time, a.prefill_time, a.cached_tokens) == (0.0, 2.0, 0)
    assert (b.queue_time, b.prefill_time, b.cached_tokens) == (3.0, 1.0, 28)
    assert h.outputs["a"][1].stats is None and h.outputs["b"][1].stats is None


def test_only_the_newest_output_token_counts_as_decode(harness) -> None:
    h = harness(max_num_batched_tokens=4)
    h.start("a", A[:2], prefix=B[:5])
    decoded = []
    for _ in range(3):
        h.step()
        decoded.append((h.plan.scheduled_tokens, h.plan.decode_tokens))
    assert decoded == [(4, 0), (3, 1), (1, 1)]


def test_cached_tokens_are_those_of_the_prompt(harness) -> None:
    h = harness()
    h.start("a", A[:6], max_tokens=12)
    h.run()
    h.start("b", A[:6], max_tokens=12, prefix=h.tokens("a")[:10])
    h.run()
    assert h.outputs["b"][0].stats.cached_tokens == 6


def test_logprobs_travel_with_their_token(harness) -> None:
    h = harness()
    h.start("a", A[:4], max_tokens=2, logprobs=0)
    h.start("b", A[:4], max_tokens=2, choice=1)
    h.run()
    assert [len(output.logprobs) for output in h.outputs["a"]] == [1, 1]
    assert h.outputs["a"][0].logprobs != h.outputs["a"][1].logprobs
    assert {output.logprobs for output in h.outputs["b"]} == {None}
