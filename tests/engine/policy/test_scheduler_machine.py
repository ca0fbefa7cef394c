"""Random lives of many choices in a tiny cache, over the production Scheduler, BlockPool and BatchBuilder.

Choices come and go while a step is computed, before and after the next one is prepared. Without a prefix cache a
second scheduler, which never prepares anything, is told the same: both must plan the same steps. (With one, blocks
that are taken earlier may be other blocks, and something else can no longer be found.)
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import structs
from scheduler_harness import Answer, Harness, alone, check

from engine.messages import Start, Tokens
from engine.prefill_policy import PromptShare
from engine.sampling_params import SamplingParams
from engine.sequence import Sequence

NUM_BLOCKS = 10
BLOCK_SIZE = 2
VOCAB_SIZE = 97


@dataclass
class Expected:
    """What one choice is to say, and has said."""

    start: Start
    answer: Answer
    held: list[int]
    """Output the client holds, over all attempts."""
    replied: bool = False
    """In this attempt."""
    started: bool = False
    """In this attempt."""


prompts = st.builds(
    lambda family, length, tail: [family + i for i in range(length)] + tail,
    st.sampled_from([0, 40]),
    st.integers(1, 10),
    st.lists(st.integers(90, 92), max_size=2),
)
"""A few families with common prefixes of every length."""

params = st.builds(
    lambda params: SamplingParams(**params),
    st.fixed_dictionaries(
        {"max_tokens": st.integers(0, 7), "min_tokens": st.integers(0, 3)},
        optional={
            "prompt_logprobs": st.just(0),
            "logprobs": st.just(0),
            "repetition_penalty": st.just(1.5),
            "stop_token_ids": st.just(tuple(range(0, VOCAB_SIZE, 5))),
        },
    ),
)

shares = st.sampled_from([PromptShare(1), PromptShare(2), PromptShare(1, for_each_stream=2), PromptShare(12)])


class RandomLives(RuleBasedStateMachine):
    ids: Bundle[str] = Bundle("ids")

    @initialize(
        budget=st.integers(1, 12),
        share=shares,
        max_num_seqs=st.integers(1, 6),
        caching=st.sampled_from([True, True, False]),
    )
    def begin(self, budget: int, share: PromptShare, max_num_seqs: int, caching: bool) -> None:
        self.budget, self.share, self.max_num_seqs = budget, share, max_num_seqs
        self.both = [
            Harness(
                num_blocks=NUM_BLOCKS,
                block_size=BLOCK_SIZE,
                max_num_batched_tokens=budget,
                prompt_share=share,
                max_num_seqs=max_num_seqs,
                enable_prefix_caching=caching,
            )
            for _ in range(1 if caching else 2)
        ]
        self.h = self.both[0]
        self.alive: dict[str, Expected] = {}
        self.count = 0
        self.under_way = self.prepared = self.burst = False

    # --- choices come and go -----------------------------------------------------------------------------------

    @rule(target=ids, prompt=prompts, params=params, salt=st.sampled_from(["", "", "salt"]), choice=st.integers(0, 1))
    def arrive(self, prompt: list[int], params: SamplingParams, salt: str, choice: int) -> str:
        name = f"c{self.count}"
        self.count += 1
        self.start(Start(id=name, attempt=0, prompt=prompt, params=params, seed=5, choice=choice, cache_salt=salt))
        return name

    @rule(target=ids, prompt=prompts, n=st.integers(2, 4))
    def arrive_together(self, prompt: list[int], n: int) -> str:
        for choice in range(n):
            name = self.arrive(prompt, SamplingParams(max_tokens=4), "", choice)
        return name

    @rule(name=ids, keep=st.integers(0, 7))
    def restart(self, name: str, keep: int) -> None:
        """As after the loss of an engine: a higher attempt goes on after what the client holds."""
        if name in self.alive:
            old = self.alive[name]
            prefix = old.held[:keep]
            self.start(structs.replace(old.start, attempt=old.start.attempt + 1, output_prefix=prefix))

    @rule(name=ids, behind=st.integers(0, 1))
    def start_again(self, name: str, behind: int) -> None:
        """A known id with no higher attempt changes nothing."""
        if name in self.alive:
            for h in self.both:
                h.start(name, [1, 2, 3], attempt=self.alive[name].start.attempt - behind)

    @rule(name=consumes(ids))
    def abort(self, name: str) -> None:
        attempt = self.alive[name].start.attempt if name in self.alive else 0
        for h in self.both:
            h.abort(name, attempt)
        self.alive.pop(name, None)

    @rule(name=ids, ahead=st.sampled_from([-1, 1]))
    def abort_another_attempt(self, name: str, ahead: int) -> None:
        if name in self.alive:
            for h in self.both:
                h.abort(name, self.alive[name].start.attempt + ahead)

    def start(self, start: Start) -> None:
        self.alive[start.id] = Expected(start, alone(start), held=list(start.output_prefix))
        for h in self.both:
            h.scheduler.add(start, h.now)

    # --- steps -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.alive and not self.under_way)
    @rule()
    def begin_step(self) -> None:
        running = list(self.h.scheduler.running)
        streams = sum(sequence.is_stream for sequence in running)
        slots = self.h.scheduler._max_running - len(running)
        beginning = len(running) - streams + min(self.h.scheduler.num_waiting, slots)
        for h in self.both:
            h.begin_step()
        self.under_way, self.prepared = True, False
        self.check_batch(running)
        # Many begin, or still a quarter of the streams since many did.
        many_begin = beginning >= streams or (self.burst and 4 * beginning >= streams)
        self.burst = many_begin and streams > 0
        if streams:
            self.check_bound(streams, many_begin)
        for name in self.h.plan.started:
            assert not self.alive[name].started
            self.alive[name].started = True

    @precondition(lambda self: self.under_way and not self.prepared)
    @rule()
    def prepare_step(self) -> None:
        self.h.prepare_step()
        self.prepared = True

    @precondition(lambda self: self.under_way)
    @rule()
    def finish_step(self) -> None:
        outputs, *_ = [h.finish_step() for h in self.both]
        self.under_way = False
        self.check_outputs(outputs)

    @rule()
    def follow_cache(self) -> None:
        for h in self.both:
            h.follow_cache()

    @rule(steps=st.integers(1, 5))
    def compute(self, steps: int) -> None:
        for _ in range(steps):
            if self.alive:
                self.step()

    def step(self) -> None:
        """What is left of the step under way, or a whole one."""
        if not self.under_way:
            self.begin_step()
        if not self.prepared:
            self.prepare_step()
        self.finish_step()

    # --- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def whole(self) -> None:
        check(self.h.scheduler)
        assert self.h.scheduler.num_pending == len(self.alive)
        if not self.alive:
            assert self.h.pool.num_used == 0

    def teardown(self) -> None:
        if not hasattr(self, "h"):
            return
        # The oldest running sequence gains a token in every step; one may be computed again for each older one.
        work = sum(len(e.start.prompt) + e.start.params.max_tokens + 1 for e in self.alive.values())
        for _ in range(work * (len(self.alive) + 1)):
            if self.alive:
                self.step()
        assert not self.alive, "starved"
        self.whole()
        self.follow_cache()

    def check_outputs(self, outputs: list[Tokens]) -> None:
        for output in outputs:
            expected = self.alive[output.id]
            start, answer = expected.start, expected.answer
            assert output.attempt == start.attempt and output.at == len(expected.held)
            assert (output.logprobs is not None) == (start.params.logprobs is not None and output.ids != [])
            assert (output.stats is not None) == (not expected.replied)
            assert output.prompt_logprobs == (None if expected.replied else answer.prompt_logprobs)
            expected.replied = True
            expected.held += output.ids
            assert expected.held == (start.output_prefix + answer.tokens)[: len(expected.held)]
            if output.finish is not None:
                assert output.finish == answer.finish
                assert expected.held == start.output_prefix + answer.tokens
                del self.alive[output.id]

    def check_batch(self, running: list[Sequence]) -> None:
        batch = self.h.batch
        assert 0 < len(batch.input_ids) == self.budget - self.h.plan.budget <= self.budget
        assert len(batch.sequence_ids) <= min(self.budget, self.max_num_seqs)
        assert all(batch.query_lens > 0)
        if running:
            assert min(running, key=lambda sequence: sequence.arrival).id in batch.sequence_ids
        for unprepared in self.both[1:]:
            assert self.h.query_lens() == unprepared.query_lens()
            assert self.h.plan.preemptions == unprepared.plan.preemptions

    def check_bound(self, streams: int, many_begin: bool) -> None:
        """Beside streams: prompt tokens are few, but for prompts that one step can take, if many begin."""
        prompts = {s: tokens for s, tokens in self.h.plan.rows.items() if not s.is_stream}
        if many_begin:
            prompts = {s: tokens for s, tokens in prompts.items() if s.num_tokens - s.num_found > self.budget}
        assert sum(prompts.values()) <= max(self.share.tokens, self.share.for_each_stream * streams)


def test_random_lives() -> None:
    run_state_machine_as_test(
        RandomLives,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
