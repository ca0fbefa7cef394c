"""Whom a crash counts against, who may run beside whom, and who is convicted: each rule, then whole histories."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.completion.suspects import CRASHES, UNLUCKY, Suspects, Witness


@pytest.fixture
def suspects() -> Suspects:
    return Suspects()


def crash(
    suspects: Suspects, *witnesses: Witness, replica: int = 0, productive: bool = True, own_doing: bool = True
) -> list[str]:
    known = any(witness.executing for witness in witnesses)
    return suspects.lost(replica, witnesses, productive=productive, own_doing=own_doing, known=known)


def test_a_crash_counts_against_those_in_the_step_that_emitted_nothing_since_their_replay(suspects: Suspects) -> None:
    crash(
        suspects,
        Witness("still", emitted=7, since=0, executing=(7,)),
        Witness("moving", emitted=7, since=1, executing=(7,)),
        Witness("waiting", emitted=7, since=0),
    )
    assert [each in suspects for each in ("still", "moving", "waiting")] == [True, False, False]


def test_a_position_that_two_crashes_find_counts_whatever_was_emitted_on_the_way(suspects: Suspects) -> None:
    crash(suspects, *(Witness(name, emitted=45, since=40, executing=(50,)) for name in "ab"))
    assert "a" not in suspects and "b" not in suspects
    crash(suspects, *(Witness(name, emitted=46, since=1, executing=(at,)) for name, at in (("a", 50), ("b", 49))))
    assert ("a" in suspects, "b" in suspects) == (True, False)


def test_without_evidence_all_that_emitted_nothing_are_suspects_of_an_engine_that_never_did(suspects: Suspects) -> None:
    witnesses = (Witness("a", emitted=0, since=0), Witness("b", emitted=5, since=0))
    assert crash(suspects, *witnesses, productive=True, own_doing=True) == []
    assert crash(suspects, *witnesses, productive=False, own_doing=False) == []
    assert not len(suspects)
    crash(suspects, *witnesses, productive=False, own_doing=True)
    assert "a" in suspects and "b" in suspects


def test_whom_nothing_is_heard_of_through_crashes_between_steps_is_a_suspect(suspects: Suspects) -> None:
    still, moving = Witness("still", emitted=4, since=0), Witness("moving", emitted=9, since=3)

    def crashes(count: int) -> None:
        for _ in range(count):
            suspects.passed("moving", 9)
            assert crash(suspects, still, moving, own_doing=True) == []

    crashes(UNLUCKY - 1)
    crash(suspects, still, moving, own_doing=False)  # a kill from outside says nothing
    suspects.passed("still", 4)
    crashes(UNLUCKY - 1)
    assert not len(suspects), "it has emitted a token in between"
    crashes(1)
    assert ("still" in suspects, "moving" in suspects) == (True, False)
    assert crash(suspects, still, own_doing=True) == []
    assert crash(suspects, still, own_doing=True) == ["still"]


def test_a_suspect_runs_alone_and_others_wait_until_it_has_passed_its_position(suspects: Suspects) -> None:
    crash(suspects, Witness("a", emitted=3, since=0, executing=(5,)), Witness("b", emitted=3, since=0, executing=(3,)))
    assert suspects.may_run("a", 0, occupied=False)
    assert not suspects.may_run("a", 0, occupied=True)
    assert not suspects.may_run("c", 0, occupied=False)
    assert not suspects.passed("a", 5)
    assert suspects.passed("a", 6)
    assert suspects.quarantines(0) and not suspects.may_run("a", 0, occupied=False)
    assert suspects.passed("b", 4)
    assert suspects.may_run("a", 0, occupied=True) and suspects.may_run("c", 0, occupied=True)


def test_suspects_stay_at_the_replica_they_were_found_on_and_others_run_elsewhere(suspects: Suspects) -> None:
    crash(suspects, Witness("a", emitted=0, since=0, executing=(0,)), replica=1)
    assert not suspects.may_run("a", 0, occupied=False) and suspects.may_run("a", 1, occupied=False)
    assert suspects.may_run("b", 0, occupied=True) and not suspects.may_run("b", 1, occupied=False)
    suspects.settle("a", [0, 1])
    assert suspects.may_run("a", 1, occupied=False), "its replica is still among those that can serve it"
    suspects.settle("a", [])
    suspects.settle("a", [2, 0])
    assert suspects.may_run("a", 2, occupied=False) and not suspects.quarantines(1)


def test_whom_an_engine_that_ended_by_itself_computed_stays_with_its_replica_for_a_token(suspects: Suspects) -> None:
    moving = [Witness(name, emitted=9, since=5, executing=(9,)) for name in "ab"]
    crash(suspects, *moving, Witness("c", emitted=9, since=5), replica=1, own_doing=True)
    assert [suspects.may_run(name, 0, occupied=True) for name in "abc"] == [False, False, True]
    assert suspects.may_run("a", 1, occupied=True)
    assert not suspects.passed("a", 9) and not suspects.may_run("a", 0, occupied=True)
    assert not suspects.passed("a", 10) and suspects.may_run("a", 0, occupied=True)
    suspects.settle("b", [1, 0])
    assert not suspects.may_run("b", 0, occupied=True)
    suspects.settle("b", [0])
    assert suspects.may_run("b", 0, occupied=True) and not len(suspects)


def test_whom_an_engine_that_was_killed_computed_goes_anywhere(suspects: Suspects) -> None:
    crash(suspects, Witness("a", emitted=9, since=5, executing=(9,)), replica=1, own_doing=False)
    assert suspects.may_run("a", 0, occupied=True) and not len(suspects)


@pytest.mark.parametrize("since", [0, 1])
def test_engines_killed_from_outside_make_a_suspect_by_the_second_at_one_position(
    suspects: Suspects, since: int
) -> None:
    moving = [Witness("a", emitted=position, since=1, executing=(position,)) for position in (4, 5)]
    for witness in moving:
        crash(suspects, witness, own_doing=False)
        assert "a" not in suspects
    crash(suspects, replace(moving[-1], since=since), own_doing=False)
    assert "a" in suspects
    alone = [crash(suspects, replace(moving[-1], since=0), own_doing=False) for _ in range(2)]
    assert alone == [[], ["a"]]


def test_one_killed_from_outside_and_one_that_ended_by_itself_make_a_suspect(suspects: Suspects) -> None:
    found = Witness("a", emitted=4, since=0, executing=(4,))
    crash(suspects, found, own_doing=False)
    crash(suspects, found)
    assert "a" in suspects


def test_two_crashes_alone_at_one_position_convict(suspects: Suspects) -> None:
    found = Witness("a", emitted=3, since=0, executing=(3,))
    assert [crash(suspects, found) for _ in range(3)] == [[], [], ["a"]]


def test_tokens_before_the_position_that_come_again_take_nothing_back(suspects: Suspects) -> None:
    for emitted in range(1, 4):
        assert crash(suspects, Witness("a", emitted=emitted, since=1, executing=(5,))) == []
        assert not suspects.passed("a", emitted + 1)
    assert crash(suspects, Witness("a", emitted=5, since=1, executing=(5,))) == ["a"]


def test_what_else_is_lost_in_between_takes_nothing_back(suspects: Suspects) -> None:
    """One that cannot get past its token 8; others crash and are killed beside it, or before it is there again."""
    at = [Witness("a", emitted=6, since=since, executing=(8,)) for since in (1, 1, 0, 1)]
    before = [Witness("a", emitted=6, since=0, executing=(position,)) for position in (6, 7)]
    for guilt, kill in zip(at[:3], [*before, before[0]], strict=True):
        assert crash(suspects, guilt) == []
        assert crash(suspects, kill, own_doing=False) == []
    assert "a" in suspects
    assert crash(suspects, at[3], own_doing=False) == ["a"]


def test_of_steps_that_overlap_either_may_be_the_one(suspects: Suspects) -> None:
    """It is its token 5 each time. Once it is alone nothing overlaps."""
    moving = Witness("a", emitted=4, since=4, executing=(4, 5))
    assert crash(suspects, moving, Witness("b", emitted=9, since=9, executing=(9, 10))) == []
    crash(suspects, Witness("a", emitted=5, since=1, executing=(5, 6)), own_doing=False)
    assert "a" in suspects and "b" not in suspects
    assert not suspects.passed("a", 6) and suspects.passed("a", 7)
    alone = Witness("a", emitted=5, since=0, executing=(5,))
    assert [crash(suspects, alone) for _ in range(3)] == [[], [], ["a"]]


def test_a_crash_in_an_attempt_that_was_called_off_is_not_one_alone(suspects: Suspects) -> None:
    found = Witness("a", emitted=5, since=0, executing=(5,))
    crash(suspects, found)
    for _ in range(3):
        assert crash(suspects, replace(found, called_off=True)) == []
    assert [crash(suspects, found) for _ in range(2)] == [[], ["a"]]


def test_who_is_alone_is_not_to_blame_for_what_the_step_did_not_compute(suspects: Suspects) -> None:
    crash(suspects, Witness("a", emitted=3, since=0, executing=(3,)))
    waiting = Witness("a", emitted=3, since=0)
    for _ in range(3):
        assert suspects.lost(0, [waiting], productive=False, own_doing=True, known=True) == []


def test_crashes_at_different_positions_convict_nobody(suspects: Suspects) -> None:
    for position in range(20):
        assert crash(suspects, Witness("a", emitted=position, since=0, executing=(position,))) == []


def test_what_is_done_is_forgotten(suspects: Suspects) -> None:
    crash(suspects, Witness("a", emitted=0, since=0, executing=(0,)), Witness("b", emitted=5, since=5, executing=(6,)))
    assert suspects.forget("a") and not suspects.forget("b") and not suspects.forget("c")
    crash(suspects, Witness("d", emitted=5, since=5, executing=(6,)), own_doing=True)
    assert not suspects.forget("d")
    assert not len(suspects) and not suspects._found


# --- histories -----------------------------------------------------------------------------------------------------


@dataclass
class Story:
    """A choice that emits ``length`` tokens, or crashes its engine in the step for its token ``poison``."""

    id: str
    length: int
    poison: int | None
    emitted: int = 0
    held: int = 0
    unsent: int = 0


@dataclass
class Replica:
    """One replica whose engine loses what it has not sent, and sends when it likes; and the policy."""

    stories: list[Story]
    rng: random.Random
    outbox: bool
    """Whether tokens wait in the engine."""
    blind: bool
    """Whether nobody knows what a step computed."""
    outside: bool = False
    """Whether poison has its engine killed from outside, as by a kernel that is out of memory."""
    suspects: Suspects = field(default_factory=Suspects)
    convicted: list[str] = field(default_factory=list)
    running: list[Story] = field(default_factory=list)
    crashes: int = 0
    taken_down: Counter[str] = field(default_factory=Counter)
    """Choice → engines that it has crashed."""
    productive: bool = False

    def dispatch(self) -> None:
        for story in self.stories:
            if story not in self.running and self.suspects.may_run(story.id, 0, occupied=bool(self.running)):
                story.held = story.emitted
                self.running.append(story)

    def step(self) -> None:
        executing = self.running if len(self.running) < 3 else self.rng.sample(self.running, 3)
        guilty = [story.id for story in executing if story.emitted + story.unsent == story.poison]
        if guilty:
            self.taken_down.update(guilty)
            self.lose(executing, own_doing=not self.outside)
            return
        for story in executing:
            story.unsent += 1
        for story in list(executing):
            done = story.emitted + story.unsent == story.length
            first = story.emitted == story.held or story.id in self.suspects
            if done or first or not self.outbox or self.rng.random() < 0.3:
                self.deliver(story, done)

    def deliver(self, story: Story, done: bool) -> None:
        story.emitted, story.unsent, self.productive = story.emitted + story.unsent, 0, True
        if done:
            self.end(story)
        elif self.suspects.passed(story.id, story.emitted) and self.suspects.quarantines(0):
            self.running.remove(story)

    def end(self, story: Story) -> None:
        self.suspects.forget(story.id)
        self.stories.remove(story)
        if story in self.running:
            self.running.remove(story)

    def lose(self, executing: list[Story], *, own_doing: bool) -> None:
        self.crashes += 1
        witnesses = []
        for story in self.running:
            known = not self.blind and story in executing
            at = [max(story.held, story.emitted + story.unsent)] if known else []
            witnesses.append(Witness(story.id, story.emitted, story.emitted - story.held, at))
            story.unsent = 0
        self.running, productive, self.productive = [], self.productive, False
        for name in self.suspects.lost(0, witnesses, productive=productive, own_doing=own_doing, known=not self.blind):
            self.convicted.append(name)
            self.end(next(story for story in self.stories if story.id == name))

    def run(self, kills: float = 0.0) -> None:
        while self.stories:
            self.dispatch()
            assert self.running, "somebody can always run"
            if kills and any(each.emitted > each.held for each in self.running) and self.rng.random() < kills:
                self.lose(self.running[:3], own_doing=self.rng.random() < 0.5)
            else:
                self.step()
            assert self.crashes < 1000


LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=10)


@settings(max_examples=150)
@given(
    LENGTHS,
    st.sets(st.integers(0, 9), max_size=3),
    st.randoms(use_true_random=False),
    st.booleans(),
    st.sampled_from(["blind", "outside", ""]),
)
def test_the_guilty_are_convicted_and_nobody_else(
    lengths: list[int], guilty: set[int], rng: random.Random, outbox: bool, how: str
) -> None:
    stories = [
        Story(f"c{number}", length, rng.randrange(length) if number in guilty else None)
        for number, length in enumerate(lengths)
    ]
    expected = sorted(story.id for story in stories if story.poison is not None)
    replica = Replica(stories, rng, outbox, blind=how == "blind", outside=how == "outside")
    replica.run()
    assert sorted(replica.convicted) == expected
    if how != "blind":
        assert max(replica.taken_down.values(), default=0) <= CRASHES


@settings(max_examples=150)
@given(LENGTHS, st.randoms(use_true_random=False), st.booleans(), st.booleans(), st.floats(0.05, 0.5))
def test_many_kills_under_many_streams_convict_nobody(
    lengths: list[int], rng: random.Random, outbox: bool, blind: bool, kills: float
) -> None:
    """Engines are killed at any moment at which one of those that run has got on."""
    stories = [Story(f"c{number}", length, None) for number, length in enumerate(lengths)]
    replica = Replica(stories, rng, outbox, blind)
    replica.run(kills)
    assert replica.convicted == []


@settings(max_examples=150)
@given(LENGTHS, st.randoms(use_true_random=False), st.booleans(), st.floats(0.05, 0.3))
def test_the_guilty_take_down_a_few_engines_whatever_else_happens(
    lengths: list[int], rng: random.Random, outside: bool, kills: float
) -> None:
    """Each choice is poison at a token of its own, or none; engines are killed beside that, at any moment."""
    stories = [
        Story(f"c{number}", length, rng.choice([None, rng.randrange(length)])) for number, length in enumerate(lengths)
    ]
    replica = Replica(stories, rng, outbox=True, blind=False, outside=outside)
    while replica.stories:
        replica.dispatch()
        if rng.random() < kills:
            replica.lose(replica.running[:3], own_doing=rng.random() < 0.5)
        else:
            replica.step()
        assert max(replica.taken_down.values(), default=0) <= CRASHES
        assert replica.crashes < 1000
