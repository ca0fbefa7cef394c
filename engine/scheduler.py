"""Scheduler: which tokens the next step computes, and what its result means.

There are no prefill and decode phases. Every sequence has computed tokens and tokens in all, and each step
spends its token budget on letting the first catch up with the second: a prompt in chunks, a stream by one.

Order: running sequences before waiting ones; streams first, so that a long prompt never holds them up; then by
arrival. How much of the budget prompts may take beside streams is bounded (``prefill_policy``).

When blocks run out the youngest running sequence gives up its blocks and is computed again later, mostly from the
prefix cache, which its blocks stay in. Nothing can wait for ever: the oldest sequence is never preempted, waits for
nobody and fits the cache, and once it is done the next one is the oldest.

While a step is computed the next one is begun: ``prepare`` plans the sequences that go on by the one token
which the running step samples, and takes the blocks for them. ``schedule`` completes that plan once the
tokens are known. It preempts nobody and admits nobody, so the plan comes out as if it had been made at once.

Where several steps go on at once, in the stages of a pipeline, each has a share of the sequences: one that is
in a step under way is neither planned nor preempted before that step has ended.

A step may also follow one that is under way (``follow``): what the other samples it takes on the device. A sequence
that turns out to have ended is then computed once too often, which nobody sees: its blocks are free, and who gets them
writes to them in a later step.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence as SequenceOf
from itertools import islice

from engine.arrays import IntArray
from engine.batch import LATER, NO_TOKEN, StepResult
from engine.block_pool import BlockPool
from engine.block_tables import BlockTables
from engine.messages import Abort, Start, TokenLogprobs, Tokens
from engine.prefill_policy import PrefillPolicy, PromptShare
from engine.prefix_cache import PrefixCache
from engine.schedule import Schedule
from engine.sequence import Sequence, Status


def waiting_order(sequence: Sequence) -> int:
    """First come, first served; one that was preempted goes back to where it stood."""
    return sequence.arrival


def running_order(sequence: Sequence) -> tuple[bool, int]:
    return not sequence.is_stream, sequence.arrival


class Scheduler:
    """Owns every Sequence, the waiting and running queues and the block tables."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        block_size: int,
        max_num_batched_tokens: int,
        prompt_share: PromptShare,
        max_num_seqs: int,
        max_model_len: int,
        enable_prefix_caching: bool,
        depth: int = 1,
    ) -> None:
        """The arguments are as in EngineConfig, but for

        prompt_share: what prompts get beside streams.
        max_model_len: greatest number of tokens of one sequence.
        depth: most steps that go on at once; they end in the order of their plans.
        """
        self._pool = pool
        self._block_size = block_size
        self._token_budget = max_num_batched_tokens
        self._max_running = max_num_seqs
        self._depth = depth
        self._prefill = PrefillPolicy(prompt_share, max_num_batched_tokens)
        self._prefix_cache = PrefixCache(pool, block_size, enabled=enable_prefix_caching)
        self._sequences: dict[str, Sequence] = {}
        self._waiting: list[Sequence] = []
        """In ``waiting_order``."""
        self._running: list[Sequence] = []
        self._arrivals = 0
        self._next = Schedule(budget=max_num_batched_tokens)
        """The plan of the next step, as far as it is made."""
        self._tables = BlockTables(pool, block_size=block_size, max_num_seqs=max_num_seqs, max_model_len=max_model_len)

    @property
    def block_tables(self) -> IntArray:
        """Of the running sequences, each in its ``table_row``."""
        return self._tables.array

    @property
    def running(self) -> SequenceOf[Sequence]:
        """Those that hold blocks; to be read only."""
        return self._running

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_pending(self) -> int:
        return len(self._sequences)

    def add(self, start: Start, now: float) -> None:
        """Take in a choice that fits the cache. A known id is replaced by a higher attempt, else kept."""
        known = self._sequences.get(start.id)
        if known is not None:
            if start.attempt <= known.attempt:
                return
            self._remove(known)
        sequence = Sequence(start, arrival=self._arrivals, arrived_at=now, block_size=self._block_size)
        self._arrivals += 1
        self._sequences[start.id] = sequence
        insort(self._waiting, sequence, key=waiting_order)

    def abort(self, abort: Abort) -> None:
        """Forget a choice and free its blocks at once; a no-op where id or attempt is not known."""
        sequence = self._sequences.get(abort.id)
        if sequence is not None and sequence.attempt == abort.attempt:
            self._remove(sequence)

    def schedule(self, now: float) -> Schedule:
        """Plan a step. Its rows are empty only where nothing is pending that is not under way."""
        plan = self._next
        plan.most_rows = self._share
        if self._waiting or len(plan.rows) < len(self._running):
            self._weigh_prompts(plan)
            for sequence in sorted(self._running, key=running_order):
                # An earlier sequence may have preempted this one.
                is_free = sequence.status is Status.RUNNING and not sequence.under_way
                if is_free and not plan.is_full and sequence not in plan.rows:
                    self._continue(sequence, plan)
        else:
            self._prefill.weigh(plan, streams=len(self._running), beginning=0)
        if self._waiting:
            self._admit(plan)
        plan.decode_tokens = len(plan.ahead)
        for sequence, tokens in plan.rest():
            plan.decode_tokens += sequence.num_output > 0 and tokens == sequence.num_uncomputed
            if not sequence.samples_after(tokens):
                plan.silent.add(sequence)
            if len(sequence.prompt_targets(tokens)):
                plan.scored.add(sequence)
            if sequence.started_at is None:
                sequence.started_at = now
                plan.started.append(sequence.id)
        for sequence in plan.rows:
            sequence.under_way += 1
        if plan.rows:
            self._next = Schedule(budget=self._token_budget)
        plan.began = now
        return plan

    def follow(self, plan: Schedule) -> dict[Sequence, int] | None:
        """``prepare`` for a step that begins before ``plan`` has ended; to be called before anything is prepared.

        None where it cannot: where a sequence goes on by another token than ``plan`` samples, or blocks are too few.
        """
        running = [(s, tokens) for s, tokens in plan.rows.items() if s.status is Status.RUNNING]
        if any(tokens < sequence.num_uncomputed for sequence, tokens in running):
            return None
        going = self.prepare(plan)
        return going if going or not any(s.goes_on_after(tokens) for s, tokens in running) else None

    def prepare(self, plan: Schedule) -> dict[Sequence, int]:
        """While ``plan`` is computed, begin the plan after it, with the sequences that go on by one token.

        Each counts on the token that ``plan`` samples for it, and leaves the new plan again if it ends instead.
        Gives them, each with its row in ``plan``, in their order: none where blocks are too few for them all.
        """
        going = {
            sequence: row
            for row, (sequence, tokens) in enumerate(plan.rows.items())
            if sequence.status is Status.RUNNING and sequence.goes_on_after(tokens)
        }
        if len(going) > self._share:
            going = dict(islice(going.items(), self._share))
        if not self._tables.extend_all(going):
            return {}
        self._next.rows = dict.fromkeys(going, 1)
        self._next.ahead = {sequence: place for place, sequence in enumerate(going)}
        self._next.budget -= len(going)
        return going

    def update(self, plan: Schedule, result: StepResult, now: float) -> list[Tokens]:
        """Take in what a step computed: what each of its sequences has to say. Those aborted meanwhile are silent."""
        self._prefill.record(plan.scheduled_tokens, now - plan.began)
        samples = enumerate(zip(result.token_ids, result.logprobs, strict=True))
        scores = iter(result.prompt_logprobs)
        outputs = []
        for sequence, tokens in plan.rows.items():
            sequence.under_way -= 1
            if sequence in plan.scored:
                sequence.prompt_logprobs += next(scores)
            index, sample = (None, None) if sequence in plan.silent else next(samples)
            if sequence.status is Status.FINISHED:
                continue
            sequence.num_computed += tokens
            if index in result.refusals:
                outputs.append(self._refuse(sequence, result.refusals[index]))
                continue
            if sample is not None and sample[0] == LATER:
                self._sample_later(sequence)
            self._prefix_cache.advance(sequence)
            if sequence.num_computed == sequence.num_tokens:
                outputs.append(self._reply(sequence, sample, now))
        return outputs

    def check_integrity(self) -> None:
        """Raises IntegrityError where the pool and the sequences disagree about a block."""
        self._pool.check_integrity([sequence.block_table for sequence in self._sequences.values()])

    @property
    def _share(self) -> int:
        """Most sequences of one step: so that there are some for every step that may go on at once."""
        return self._max_running if self._depth == 1 else -(-len(self._sequences) // self._depth)

    def _weigh_prompts(self, plan: Schedule) -> None:
        streams = sum(sequence.is_stream for sequence in self._running)
        slots = self._max_running - len(self._running)
        beginning = len(self._running) - streams + min(len(self._waiting), slots)
        self._prefill.weigh(plan, streams=streams, beginning=beginning)

    def _continue(self, sequence: Sequence, plan: Schedule) -> None:
        """Schedule a running sequence, preempting the youngest ones, itself included, until a token fits."""
        bounded = self._prefill.is_bounded(plan, sequence, sequence.num_found)
        wanted = plan.allow(sequence.num_uncomputed, bounded)
        if not wanted:
            return
        while not (tokens := min(wanted, self._tables.room(sequence))):
            youngest = max(self._running, key=waiting_order)
            if youngest.under_way:
                return
            self._preempt(youngest)
            plan.preemptions += 1
            if youngest is sequence:
                return
        self._tables.extend(sequence, tokens)
        plan.add(sequence, tokens, bounded)

    def _admit(self, plan: Schedule) -> None:
        """Start waiting sequences in their order while budget, slots and blocks last.

        One that does not fit ends it, so that small ones cannot keep overtaking a large one; one that waits
        for blocks another is computing is passed over.
        """
        for sequence in self._waiting.copy():
            if plan.is_full or len(self._running) == self._max_running:
                return
            if self._prefix_cache.is_deferred(sequence):
                continue
            found = self._prefix_cache.look_up(sequence)
            if found is None:
                continue
            # All its known tokens must fit, not only the first chunk: else it would soon be preempted again.
            if not self._tables.fits(sequence, found):
                return
            num_found = len(found) * self._block_size
            bounded = self._prefill.is_bounded(plan, sequence, num_found)
            tokens = plan.allow(sequence.num_tokens - num_found, bounded)
            if not tokens:
                return
            self._start(sequence, found, plan)
            self._tables.extend(sequence, tokens)
            plan.add(sequence, tokens, bounded)

    def _start(self, sequence: Sequence, found: list[int], plan: Schedule) -> None:
        self._waiting.remove(sequence)
        self._running.append(sequence)
        sequence.status = Status.RUNNING
        self._tables.open(sequence, found)
        sequence.num_computed = sequence.num_found = len(found) * self._block_size
        self._prefix_cache.begin(sequence)
        if sequence.cached_tokens is None:
            sequence.cached_tokens = min(sequence.num_computed, sequence.num_prompt)
            if self._prefix_cache.serves(sequence):
                plan.prefix_queries += sequence.num_prompt
                plan.prefix_hits += sequence.cached_tokens

    def _preempt(self, sequence: Sequence) -> None:
        self._vacate(sequence)
        sequence.status = Status.WAITING
        sequence.num_computed = 0
        if not sequence.has_replied:
            sequence.prompt_logprobs.clear()
        insort(self._waiting, sequence, key=waiting_order)

    def _remove(self, sequence: Sequence) -> None:
        if sequence.status is Status.RUNNING:
            self._vacate(sequence)
        else:
            self._waiting.remove(sequence)
        sequence.status = Status.FINISHED
        del self._sequences[sequence.id]

    def _vacate(self, sequence: Sequence) -> None:
        """Take a sequence out of the running queue and the next plan, and give back its blocks."""
        self._prefix_cache.end(sequence)
        self._running.remove(sequence)
        self._next.drop(sequence)
        self._tables.close(sequence)

    def _sample_later(self, sequence: Sequence) -> None:
        """Compute the last position once more: it gives the same logits, and by then its grammar may be ready."""
        sequence.num_computed -= 1
        self._next.drop(sequence)

    def _reply(self, sequence: Sequence, sample: tuple[int, TokenLogprobs | None] | None, now: float) -> Tokens:
        """What a sequence says once it has caught up: its next token, unless none was left to sample."""
        at = sequence.num_output
        ids, logprobs = [], None
        if sample is not None:
            token_id, scores = sample
            if token_id == NO_TOKEN:
                return self._give_up(sequence)
            sequence.append(token_id)
            ids = [token_id]
            logprobs = None if scores is None else [scores]
        if sequence.finish is not None:
            self._remove(sequence)
        prompt_logprobs = stats = None
        if not sequence.has_replied:
            prompt_logprobs = sequence.prompt_logprobs if sequence.needs_prompt_logprobs else None
            stats = sequence.stats(now)
            sequence.has_replied, sequence.needs_prompt_logprobs, sequence.prompt_logprobs = True, False, []
        return Tokens(
            id=sequence.id,
            attempt=sequence.attempt,
            at=at,
            ids=ids,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            finish=sequence.finish,
            stats=stats,
        )

    def _refuse(self, sequence: Sequence, refusal: str) -> Tokens:
        self._remove(sequence)
        return Tokens(id=sequence.id, attempt=sequence.attempt, at=sequence.num_output, ids=[], refusal=refusal)

    def _give_up(self, sequence: Sequence) -> Tokens:
        """There is no next token; nor shall anybody take over what was computed on the way to it."""
        self._prefix_cache.withdraw(sequence)
        self._remove(sequence)
        failure = "The model computed NaN or infinite scores for the next token of this request."
        return Tokens(id=sequence.id, attempt=sequence.attempt, at=sequence.num_output, ids=[], failure=failure)
