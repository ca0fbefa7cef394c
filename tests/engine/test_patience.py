"""When a step is stuck, by an injected clock."""

import pytest

from engine.patience import FACTOR, LEAST, RECENT, Patience


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def step(patience: Patience, clock: Clock, tokens: int, seconds: float) -> None:
    patience.begin(tokens)
    clock.now += seconds
    patience.end()


def test_there_is_no_limit_before_the_first_step_has_ended(clock):
    patience = Patience(clock)
    assert patience.left() is None
    patience.begin(5)
    assert patience.left() is None


def test_there_is_none_while_nothing_is_under_way(clock):
    patience = Patience(clock)
    step(patience, clock, 1, 0.1)
    assert patience.left() is None and patience.predicted == 0


def test_quick_steps_have_ten_seconds(clock):
    patience = Patience(clock)
    step(patience, clock, 10, 0.1)
    patience.begin(20)
    assert patience.predicted == pytest.approx(0.2)
    assert patience.left() == pytest.approx(LEAST)
    clock.now += LEAST + 1
    assert patience.left() == pytest.approx(-1)


def test_slow_steps_have_five_times_what_their_tokens_take(clock):
    patience = Patience(clock)
    step(patience, clock, 10, 4.0)
    step(patience, clock, 10, 1.0)
    patience.begin(50)
    assert patience.left() == pytest.approx(FACTOR * 50 * 0.4)


def test_a_pause_in_a_step_does_not_put_off_the_next_limit_for_hours(clock):
    patience = Patience(clock)
    step(patience, clock, 10, 0.1)
    step(patience, clock, 10, 86400.0)
    patience.begin(10)
    assert patience.left() == pytest.approx(FACTOR * LEAST)


def test_only_recent_steps_count(clock):
    patience = Patience(clock)
    step(patience, clock, 1, 100.0)
    for _ in range(RECENT):
        step(patience, clock, 1, 3.0)
    patience.begin(1)
    assert patience.left() == pytest.approx(FACTOR * 3)


def test_of_several_steps_under_way_each_has_its_time_since_the_one_before(clock):
    patience = Patience(clock)
    step(patience, clock, 1, 4.0)
    patience.begin(1)
    patience.begin(2)
    assert patience.left() == pytest.approx(FACTOR * 12)
    clock.now += 7.0
    patience.end()
    # The last one took 7 s for its token, and time counts from its end.
    assert patience.left() == pytest.approx(FACTOR * 14)


def test_idle_time_is_nobodys(clock):
    patience = Patience(clock)
    step(patience, clock, 1, 1.0)
    clock.now += 10_000
    step(patience, clock, 1, 3.0)
    patience.begin(1)
    assert patience.left() == pytest.approx(FACTOR * 3)


def test_a_long_prompt_is_not_judged_by_the_pace_of_single_tokens(clock):
    patience = Patience(clock)
    for tokens, seconds in ((1, 0.5), (512, 20.0), (1, 0.5), (300, 8.0)):
        step(patience, clock, tokens, seconds)
    patience.begin(400)
    assert patience.limit == pytest.approx(FACTOR * 400 / 300 * 8.0)


def test_a_step_smaller_than_all_before_may_take_as_long_as_the_next_larger(clock):
    patience = Patience(clock)
    step(patience, clock, 64, 7.0)
    step(patience, clock, 512, 50.0)
    patience.begin(1)
    assert patience.limit == pytest.approx(FACTOR * 7.0)


def test_with_no_step_under_way_the_next_one_has_to_come_soon(clock):
    patience = Patience(clock)
    assert patience.limit == LEAST
    step(patience, clock, 1, 100.0)
    assert patience.limit == LEAST
