"""Prefix routing under a simulated clock: the production lifecycle, router, scheduler and caches, without a model.

    python -m benchmarks.replicas.simulation

Each replica is an Engine whose executor makes up tokens in no time; a step takes a fixed time and some for each token.
Compared are one replica that has all the cache, one that has a replica's share, and several with prefix routing and
with random routing. The same seed gives the same numbers on every machine.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import Counter
from collections.abc import Sequence
from itertools import count

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from benchmarks.replicas.conversations import Conversation, Shape
from benchmarks.replicas.report import Outcome, print_table
from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig
from engine.engine import Engine
from engine.executor.base import Executor, ModelFacts
from engine.messages import CacheEvents, EngineInfo, Start, StepOutput, ToEngine
from engine.sampling_params import SamplingParams
from gateway.completion.lifecycle import Lifecycle
from gateway.completion.request import Request
from gateway.replicas.router import Router, Routing
from gateway.tokenizer import Tokenizer
from observability.records import Record, Routed, StepStats

VOCABULARY = range(1, 1000)
STEP_SECONDS, TOKEN_SECONDS = 0.01, 0.0005
BLOCK = 16


FACTS = ModelFacts(
    device="cpu",
    dtype="float32",
    parameters=1,
    weight_bytes=4,
    max_model_len=1 << 20,
    vocab_size=len(VOCABULARY) + 1,
    eos_token_ids=[],
    fingerprint="simulated",
    kernels={},
    block_bytes=1,
)


class MadeUp(Executor):
    """The next token follows from how many there are."""

    def __init__(self) -> None:
        pass

    def load(self) -> ModelFacts:
        return FACTS

    def initialize_cache(self) -> int:
        raise NotImplementedError

    def submit(self, batch: ScheduledBatch) -> None:
        self._batch = batch

    def collect(self) -> StepResult:
        batch = self._batch
        ends = batch.context_lens + batch.query_lens
        tokens = [int(ends[sample.row]) % len(VOCABULARY) + 1 for sample in batch.samples]
        return StepResult(tokens, [None] * len(tokens), [])

    def check(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


class Replica:
    """An engine whose steps take time: what a step gives is heard of when it ends."""

    def __init__(self, number: int, num_blocks: int) -> None:
        config = EngineConfig(model="", block_size=BLOCK, cache_events=True, replica=number)
        self.number = number
        self.engine = Engine(config, MadeUp(), FACTS, num_blocks, clock=lambda: 0.0)
        self.busy = False
        self.info = EngineInfo(
            device=FACTS.device,
            dtype=FACTS.dtype,
            parameters=FACTS.parameters,
            weight_bytes=FACTS.weight_bytes,
            max_model_len=self.engine.max_model_len,
            block_size=BLOCK,
            num_blocks=num_blocks,
            cache_bytes=num_blocks,
            vocab_size=FACTS.vocab_size,
            eos_token_ids=[],
            fingerprint=FACTS.fingerprint,
            kernels={},
            load_seconds={},
        )

    def receive(self, message: ToEngine) -> None:
        assert isinstance(message, Start)
        rejected = self.engine.start(message)
        assert rejected is None, rejected

    def step(self) -> tuple[float, CacheEvents | None, StepOutput]:
        """(how long it takes, what it says at the end of that time)."""
        output = self.engine.step()
        tokens = sum(stats.scheduled_tokens for stats in output.stats)
        return STEP_SECONDS + TOKEN_SECONDS * tokens, self.engine.cache_events(), output


class Simulation:
    """One run of a workload. The time is ``now``, in seconds."""

    def __init__(self, shape: Shape, replicas: int, cache_tokens: int, routing: Routing, seed: int) -> None:
        """``cache_tokens``: of all replicas together."""
        self._now = 0.0
        self._steps = Counter[str]()
        self._reasons = Counter[str]()
        self._sent = Counter[int]()
        self._replicas = [Replica(number, cache_tokens // replicas // BLOCK) for number in range(replicas)]
        self._lifecycle = Lifecycle(
            _tokenizer(),
            record=self._record,
            clock=self,
            router=Router(routing, rng=random.Random(seed)),
            replicas=replicas,
        )
        for replica in self._replicas:
            self._lifecycle.up(replica.number, 1, replica.info, replica.receive)
        self._conversations = [Conversation(number, shape, seed, VOCABULARY) for number in range(shape.conversations)]
        self._answers: dict[str, list[int]] = {}
        self._asked: dict[str, float] = {}
        self._first_token: list[float] = []
        self._order = count()
        self._agenda: list[tuple[float, int, Conversation | tuple[Replica, CacheEvents | None, StepOutput]]] = []

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError

    def run(self, name: str) -> Outcome:
        """Every conversation to its end."""
        for conversation in self._conversations:
            self._think(conversation)
        while self._agenda:
            self._now, _, what = heapq.heappop(self._agenda)
            if isinstance(what, Conversation):
                self._ask(what)
            else:
                self._hear(*what)
            for replica in self._replicas:
                if not replica.busy and replica.engine.num_pending:
                    replica.busy = True
                    seconds, events, output = replica.step()
                    heapq.heappush(self._agenda, (self._now + seconds, next(self._order), (replica, events, output)))
        return Outcome(
            name=name,
            queries=self._steps["queries"],
            hits=self._steps["hits"],
            by_replica=tuple(self._sent[replica.number] for replica in self._replicas),
            reasons=self._reasons,
            seconds=self._now,
            first_token=sum(self._first_token) / len(self._first_token),
        )

    def _think(self, conversation: Conversation) -> None:
        if not conversation.over:
            heapq.heappush(self._agenda, (self._now + conversation.pause(), next(self._order), conversation))

    def _ask(self, conversation: Conversation) -> None:
        prompt, answer = conversation.ask()
        name = f"{conversation.number}/{conversation.turn}"
        params = SamplingParams(max_tokens=answer)
        request = Request(id=name, tenant="default", prompts=(prompt,), params=(params,), seed=0)
        self._answers[f"{name}:0"] = []
        self._asked[f"{name}:0"] = self._now
        self._lifecycle.submit(request)

    def _hear(self, replica: Replica, events: CacheEvents | None, output: StepOutput) -> None:
        replica.busy = False
        if events is not None:
            self._lifecycle.receive(replica.number, 1, events)
        self._lifecycle.receive(replica.number, 1, output)
        for tokens in output.outputs:
            answer = self._answers[tokens.id]
            if not answer:
                self._first_token.append(self._now - self._asked[tokens.id])
            answer += tokens.ids
            if tokens.finish is not None:
                conversation = self._conversations[int(tokens.id.partition("/")[0])]
                conversation.hear(answer)
                self._think(conversation)

    def _record(self, record: Record, *, replica: str = "0") -> None:
        if isinstance(record, StepStats):
            self._steps.update(queries=record.prefix_queries, hits=record.prefix_hits)
        elif isinstance(record, Routed):
            self._reasons[record.reason] += 1
            self._sent[int(replica)] += 1


def compare(shape: Shape, *, replicas: int, cache_tokens: int, seed: int) -> list[Outcome]:
    """One replica with all the cache, then several that have it in equal parts."""
    runs: list[tuple[str, int, Routing]] = [
        ("1 replica", 1, "prefix"),
        (f"{replicas} replicas, prefix", replicas, "prefix"),
        (f"{replicas} replicas, random", replicas, "random"),
    ]
    return [Simulation(shape, count, cache_tokens, routing, seed).run(name) for name, count, routing in runs]


def _tokenizer() -> Tokenizer:
    backend = Backend(models.WordLevel({f"w{n}": n for n in range(len(VOCABULARY) + 1)}, unk_token="w0"))
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--system", type=int, default=64, help="tokens of a beginning that all share")
    parser.add_argument("--think", type=float, default=1.0, help="mean seconds between an answer and the next message")
    parser.add_argument("--room", type=float, default=2.0, help="cache of all replicas, in times what is said")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    shape = Shape(conversations=options.conversations, turns=options.turns, system=options.system, think=options.think)
    cache_tokens = int(options.room * shape.tokens)
    outcomes = compare(shape, replicas=options.replicas, cache_tokens=cache_tokens, seed=options.seed)
    title = f"{shape.conversations} conversations of {shape.turns} turns, {cache_tokens:,} tokens of cache"
    print_table(title, outcomes)
    for outcome in outcomes[1:]:
        print(f"{outcome.name}: routed by {dict(outcome.reasons)}")


if __name__ == "__main__":
    main()
