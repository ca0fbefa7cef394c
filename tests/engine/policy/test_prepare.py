"""What is done of the next step while one is computed."""

from __future__ import annotations

from scheduler_harness import Harness

A = list(range(10, 40))
B = list(range(50, 80))


def test_the_next_step_s_blocks_are_taken_ahead() -> None:
    h = Harness()
    h.start("a", A[:8])
    h.start("b", B[:5])
    h.begin_step()
    assert h.pool.num_used == 4
    h.prepare_step()
    assert h.pool.num_used == 5
    h.finish_step()
    h.begin_step()
    assert [len(table) for table in h.tables()] == [3, 2] and h.query_lens() == {"a": 1, "b": 1}


def test_no_block_is_taken_for_one_that_ends() -> None:
    h = Harness()
    h.start("a", A[:7], max_tokens=2)
    h.step()
    h.begin_step()
    h.prepare_step()
    assert h.batch.context_lens.tolist() == [7] and h.pool.num_used == 2


def test_where_blocks_are_too_few_for_all_none_is_taken_and_nobody_preempted() -> None:
    h = Harness(num_blocks=5)
    h.start("a", A[:8])
    h.start("b", B[:8])
    h.begin_step()
    h.prepare_step()
    assert h.pool.num_used == 4 and h.scheduler.num_running == 2
    h.finish_step()
    h.step()
    assert h.query_lens() == {"a": 1} and h.preemptions == 1


def test_what_ends_or_goes_meanwhile_leaves_its_place_to_others() -> None:
    alone = Harness()
    alone.start("b", B[:4])
    alone.run()
    expected = alone.tokens("b")
    h = Harness(max_num_seqs=3, max_num_batched_tokens=16)
    h.start("a", A[:4])
    h.start("b", B[:4], stop_token_ids=(expected[1],))
    h.start("c", A[10:14])
    h.step()
    h.begin_step()
    h.abort("a")
    h.prepare_step()
    h.start("d", [1, 2, 3])
    h.abort("c")
    h.start("e", [1, 2, 3, 4], max_tokens=1)
    assert [output.id for output in h.finish_step()] == ["b"]
    assert h.finish("b") == "stop" and h.pool.num_used == 0
    h.step()
    assert h.query_lens() == {"d": 3, "e": 4}
