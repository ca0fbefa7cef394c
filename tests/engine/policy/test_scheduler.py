"""One rule a test: budget and order, admission, preemption, stopping, attempts."""

from __future__ import annotations

import pytest
from scheduler_harness import Harness, alone

A = list(range(10, 40))
B = list(range(50, 80))


# --- budget and order -------------------------------------------------------------------------------------


def test_a_batch_packs_chunks_of_all_sequences() -> None:
    h = Harness(max_num_batched_tokens=9)
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


def test_a_batch_does_not_change_after_it_is_made() -> None:
    h = Harness()
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


def test_a_long_prompt_is_computed_in_chunks_within_the_budget() -> None:
    h = Harness(max_num_batched_tokens=16)
    h.start("a", A, max_tokens=1)
    assert h.step() == []
    assert h.query_lens() == {"a": 16} and h.batch.samples == ()
    (output,) = h.step()
    assert h.query_lens() == {"a": 14}
    assert (output.at, output.finish) == (0, "length")


def test_a_long_prompt_gets_what_the_streams_leave() -> None:
    h = Harness(max_num_batched_tokens=4)
    for name in "xy":
        h.start(name, [1], max_tokens=50)
    h.step()
    h.start("long", A, max_tokens=1)
    for _ in range(15):
        h.step()
        assert h.query_lens() == {"x": 1, "y": 1, "long": 2}
    assert h.finish("long") == "length"


def test_a_stream_goes_before_an_older_prompt() -> None:
    h = Harness(max_num_batched_tokens=12)
    h.start("first", A[:8])
    h.start("long", A[:8] + B)  # waits for the blocks of the first, so the stream overtakes it
    h.start("stream", [1])
    h.step()
    assert h.query_lens() == {"first": 8, "stream": 1}
    for _ in range(3):
        h.step()
        assert h.query_lens() == {"first": 1, "stream": 1, "long": 10}


def test_admission_is_first_come_first_served() -> None:
    h = Harness(num_blocks=8, max_num_batched_tokens=64)
    h.start("a", A[:20], max_tokens=1)
    h.start("large", B[:16], max_tokens=1)
    h.start("small", [1], max_tokens=1)
    h.step()
    # "small" would fit, but would then keep overtaking "large" for as long as small ones arrive.
    assert h.query_lens() == {"a": 20}
    h.step()
    assert h.query_lens() == {"large": 16, "small": 1}


def test_a_sequence_starts_only_when_all_its_known_tokens_fit() -> None:
    h = Harness(num_blocks=8, max_num_batched_tokens=24)
    h.start("a", A[:20], max_tokens=3)
    h.start("b", B[:16], max_tokens=1)
    h.step()
    assert h.query_lens() == {"a": 20}
    assert h.scheduler.num_waiting == 1


def test_at_most_max_num_seqs_run_at_once() -> None:
    h = Harness(max_num_seqs=2)
    for name in "abc":
        h.start(name, [1], max_tokens=2)
    h.step()
    assert list(h.query_lens()) == ["a", "b"]
    h.run()
    assert h.finish("c") == "length"


# --- preemption -------------------------------------------------------------------------------------------


def test_the_youngest_is_preempted_and_nobody_s_tokens_change() -> None:
    h = Harness(num_blocks=6, max_num_batched_tokens=64)
    starts = [h.start(name, prompt, max_tokens=10) for name, prompt in (("a", A[:8]), ("b", B[:8]), ("c", [1, 2, 3]))]
    h.step()
    assert len(h.batch.sequence_ids) == 3
    while not h.preemptions:
        h.step()
    assert set(h.query_lens()) == {"a", "b"} and h.scheduler.num_waiting == 1
    h.run()
    assert h.preemptions > 1
    for start in starts:
        assert h.tokens(start.id) == alone(start).tokens
        assert [output.at for output in h.outputs[start.id]] == list(range(10))
    assert h.pool.num_used == 0


def test_a_preempted_sequence_goes_before_later_arrivals() -> None:
    h = Harness(num_blocks=6, max_num_batched_tokens=64, max_num_seqs=2)
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


def test_what_is_computed_again_is_mostly_found_in_the_cache() -> None:
    h = Harness(num_blocks=7, max_num_batched_tokens=64)
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


def test_a_preempted_sequence_gives_back_the_budget_it_was_given() -> None:
    h = Harness(num_blocks=12, max_num_batched_tokens=20)
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


def test_max_tokens_ends_with_length() -> None:
    h = Harness()
    h.start("a", A, max_tokens=3)
    h.run()
    assert len(h.tokens("a")) == 3 and h.finish("a") == "length"
    assert [output.finish for output in h.outputs["a"]][:2] == [None, None]


def test_a_stop_token_ends_with_stop_and_is_sent() -> None:
    expected = alone(Harness().start("a", A)).tokens
    h = Harness()
    h.start("a", A, stop_token_ids=(expected[2],))
    h.run()
    assert h.tokens("a") == expected[:3] and h.finish("a") == "stop"


def test_a_stop_token_at_the_greatest_length_is_a_stop() -> None:
    expected = alone(Harness().start("a", A, max_tokens=3)).tokens
    h = Harness()
    h.start("a", A, max_tokens=3, stop_token_ids=(expected[2],))
    h.run()
    assert h.finish("a") == "stop"


@pytest.mark.parametrize(("min_tokens", "length"), [(2, 3), (3, 8)])
def test_no_stop_token_counts_before_min_tokens(min_tokens: int, length: int) -> None:
    expected = alone(Harness().start("a", A)).tokens
    assert expected.count(expected[2]) == 1
    h = Harness()
    h.start("a", A, min_tokens=min_tokens, stop_token_ids=(expected[2],))
    h.run()
    assert h.tokens("a") == expected[:length]


def test_max_tokens_of_zero_computes_the_prompt_and_samples_nothing() -> None:
    h = Harness(max_num_batched_tokens=16)
    h.start("a", A, max_tokens=0, prompt_logprobs=0)
    h.run()
    (output,) = h.outputs["a"]
    assert (output.at, output.ids, output.finish) == (0, [], "length")
    assert len(output.prompt_logprobs) == len(A) - 1


# --- attempts and aborts ----------------------------------------------------------------------------------


def test_output_prefix_is_output_and_not_prompt() -> None:
    expected = alone(Harness().start("a", A)).tokens
    h = Harness()
    h.start("a", A, attempt=1, prefix=expected[:3], presence_penalty=1.0)
    while not h.step():
        pass
    (sample,) = h.batch.samples
    assert sample.position == 3
    assert sample.prompt_ids.tolist() == A and sample.output_ids.tolist()[:3] == expected[:3]
    h.run()
    assert h.outputs["a"][0].at == 3
    assert expected[:3] + h.tokens("a") == expected


def test_min_tokens_counts_the_output_prefix() -> None:
    expected = alone(Harness().start("a", A)).tokens
    h = Harness()
    h.start("a", A, prefix=expected[:2], min_tokens=2, stop_token_ids=(expected[2],))
    h.run()
    assert h.tokens("a") == expected[2:3] and h.finish("a") == "stop"


@pytest.mark.parametrize(("params", "finish"), [({"max_tokens": 2}, "length"), ({"stop_token_ids": (7,)}, "stop")])
def test_an_output_prefix_that_is_complete_only_ends(params: dict[str, object], finish: str) -> None:
    h = Harness()
    h.start("a", A[:5], prefix=[6, 7], **params)
    h.run()
    (output,) = h.outputs["a"]
    assert (output.at, output.ids, output.finish) == (2, [], finish)


def test_a_higher_attempt_replaces_and_others_are_ignored() -> None:
    h = Harness()
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


def test_abort_frees_the_blocks_at_once() -> None:
    h = Harness(max_num_seqs=1)
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


def test_statistics_of_a_choice_and_a_step() -> None:
    h = Harness(max_num_seqs=1)
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


def test_only_the_newest_output_token_counts_as_decode() -> None:
    h = Harness(max_num_batched_tokens=4)
    h.start("a", A[:2], prefix=B[:5])
    decoded = []
    for _ in range(3):
        h.step()
        decoded.append((h.plan.scheduled_tokens, h.plan.decode_tokens))
    assert decoded == [(4, 0), (3, 1), (1, 1)]


def test_cached_tokens_are_those_of_the_prompt() -> None:
    h = Harness()
    h.start("a", A[:6], max_tokens=12)
    h.run()
    h.start("b", A[:6], max_tokens=12, prefix=h.tokens("a")[:10])
    h.run()
    assert h.outputs["b"][0].stats.cached_tokens == 6


def test_logprobs_travel_with_their_token() -> None:
    h = Harness()
    h.start("a", A[:4], max_tokens=2, logprobs=0)
    h.start("b", A[:4], max_tokens=2, choice=1)
    h.run()
    assert [len(output.logprobs) for output in h.outputs["a"]] == [1, 1]
    assert h.outputs["a"][0].logprobs != h.outputs["a"][1].logprobs
    assert {output.logprobs for output in h.outputs["b"]} == {None}
