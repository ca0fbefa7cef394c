"""How much of a step prompts may take, by numbers alone. What plans make of it: test_scheduler.py."""

from __future__ import annotations

import pytest

from engine.messages import Start
from engine.prefill_policy import Pace, PrefillPolicy, PromptShare
from engine.sampling_params import SamplingParams
from engine.schedule import Schedule
from engine.sequence import Sequence

BUDGET = 16


def sequence_of(prompt: int, output: int = 0, *, computed: int = 0) -> Sequence:
    start = Start(
        id="a", attempt=0, prompt=[1] * prompt, output_prefix=[2] * output, params=SamplingParams(max_tokens=50), seed=0
    )
    sequence = Sequence(start, arrival=0, arrived_at=0.0, block_size=4)
    sequence.num_computed = computed
    return sequence


def weighed(
    share: PromptShare, *, streams: int, beginning: int, budget: int = BUDGET
) -> tuple[PrefillPolicy, Schedule]:
    policy, plan = PrefillPolicy(share, BUDGET), Schedule(budget=budget)
    policy.weigh(plan, streams=streams, beginning=beginning)
    return policy, plan


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


@pytest.mark.parametrize(("streams", "expected"), [(0, BUDGET), (1, 3), (2, 4), (4, 8)])
def test_prompts_share_the_greatest_of_the_bounds_and_all_of_a_step_without_streams(streams, expected) -> None:
    _, plan = weighed(PromptShare(3, for_each_stream=2), streams=streams, beginning=0)
    assert plan.chunk_budget == expected


def test_prompts_share_what_takes_little_time() -> None:
    policy, plan = PrefillPolicy(PromptShare(3, seconds=0.5), BUDGET), Schedule(budget=BUDGET)
    policy.record(100, 10.0)
    policy.weigh(plan, streams=1, beginning=0)
    assert plan.chunk_budget == 5


@pytest.mark.parametrize(
    ("sequence", "found", "burst", "bounded"),
    [
        (sequence_of(8, 1, computed=8), 0, False, False),  # a stream
        (sequence_of(8, 4, computed=8), 0, False, True),  # an answer that is computed again
        (sequence_of(1), 0, False, True),
        (sequence_of(BUDGET), 0, True, False),
        (sequence_of(BUDGET + 1), 0, True, True),  # longer than a step
        (sequence_of(BUDGET + 1, computed=8), 0, True, True),  # to its end
        (sequence_of(BUDGET + 1), 4, True, False),  # but for what is found
    ],
)
def test_what_is_bounded(sequence: Sequence, found: int, burst: bool, bounded: bool) -> None:
    policy, plan = weighed(PromptShare(3), streams=2, beginning=2 if burst else 1)
    assert policy.is_bounded(plan, sequence, found) == bounded


def test_a_burst_begins_with_as_many_as_there_are_streams_and_ends_with_a_quarter() -> None:
    policy = PrefillPolicy(PromptShare(3), BUDGET)
    bursts = []
    for beginning, streams in ((2, 3), (3, 3), (2, 4), (2, 8), (2, 9), (3, 9), (9, 9), (0, 1), (1, 4)):
        plan = Schedule(budget=BUDGET)
        policy.weigh(plan, streams=streams, beginning=beginning)
        bursts.append(plan.is_burst)
    assert bursts == [False, True, True, True, False, False, True, False, False]


def test_a_short_prompt_is_bounded_where_the_rest_of_the_step_cannot_take_it_whole() -> None:
    policy, plan = weighed(PromptShare(3), streams=2, beginning=2, budget=7)
    assert not policy.is_bounded(plan, sequence_of(7), 0)
    assert policy.is_bounded(plan, sequence_of(8), 0)
