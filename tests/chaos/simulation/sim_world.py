"""What a history is made of, drawn from its seed: the shape of the server, what clients ask for, what goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from sim_model import EOS, PIECES, VOCAB_SIZE

from engine.config import EngineConfig
from engine.sampling_params import SamplingParams
from gateway.admission import Tenant
from gateway.completion.request import Request
from gateway.replicas.router import Routing
from gateway.replicas.watched_engine import Limits

GRACE = 15.0
"""Seconds that a stream waits for its reader."""

LIMITS = Limits(
    check_interval=0.5,
    silence=5.0,
    startup_silence=12.0,
    startup_stall=15.0,
    stall=8.0,
    dump=0.1,
    stop=5.0,
    first_backoff=0.25,
    longest_backoff=2.0,
    startup_failures=3,
)
"""Shorter than in production, for shorter histories."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The server."""

    replicas: int
    block_size: int
    num_blocks: int
    depth: int
    """Steps that an executor has under way at once."""
    overlap: bool
    """Whether a step begins before the tokens of the one before it are known."""
    max_num_seqs: int
    max_num_batched_tokens: int
    max_num_mixed_prefill_tokens: int | None
    prefix_caching: bool
    stream_interval: float
    numerics: tuple[str, ...]
    """Each replica's fingerprint, on which its answers depend."""
    routing: Routing
    max_queue_requests: int
    max_queue_tokens: int
    durable: bool
    """Whether there is a journal on disk."""
    standby: bool
    """Whether each replica has a spare process."""
    lateness: float
    """Share of tokens that are not ready in their step."""
    lease: float
    slowness: float
    """Factor on the time of a step."""

    @property
    def context(self) -> int:
        return self.num_blocks * self.block_size

    def config(self, replica: int) -> EngineConfig:
        return EngineConfig(
            model=str(Path("no") / "model"),
            replica=replica,
            replicas=self.replicas,
            block_size=self.block_size,
            max_num_seqs=self.max_num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_num_mixed_prefill_tokens=self.max_num_mixed_prefill_tokens,
            enable_prefix_caching=self.prefix_caching,
            cache_events=self.replicas > 1,
            stream_interval=self.stream_interval,
            engine_lease=self.lease,
        )


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one client does."""

    at: float
    """Seconds after the server is ready."""
    request: Request
    tenant: Tenant
    preparation: float
    """How long its prompt takes to be rendered and tokenized."""
    pace: float
    """Seconds that it takes over each piece it reads; 0 for a fast reader."""
    patience: float | None
    """Seconds after which it disconnects."""
    retries: int
    resumes: bool = False
    """Whether its stream may be resumed: then it comes back where its connection or its server is lost."""
    poison: int | None = None
    """Output token whose computation crashes the engine."""
    poisoned: int = 1
    """In how many of its choices it does."""


@dataclass(frozen=True)
class Fault:
    at: float
    kind: str
    number: int
    """For whatever the kind needs a number."""


FAULTS = [
    *("kill -9", "kill -9 at a message", "exception", "garbage", "hang", "silence", "slowness", "lost output"),
    *("short stop", "long stop", "clock jump", "gateway pause", "drain replica", "gateway killed", "disk full"),
]


def draw_shape(rng: random.Random, overlap: bool) -> Shape:
    """``overlap``: whether steps overlap where the rest of the shape allows it."""
    replicas = rng.choice([1, 1, 2, 2, 3])
    block_size = rng.choice([2, 4, 4])
    shape = Shape(
        replicas=replicas,
        block_size=block_size,
        num_blocks=rng.randint(48, 96) // block_size,
        depth=rng.choice([1, 1, 1, 2]),
        overlap=False,
        max_num_seqs=rng.randint(2, 8),
        max_num_batched_tokens=rng.choice([4, 8, 16, 32]),
        max_num_mixed_prefill_tokens=rng.choice([None, 2, 8]),
        prefix_caching=rng.random() < 0.9,
        stream_interval=rng.choice([0.0, 0.02, 0.1]),
        numerics=tuple(rng.choice("AB") for _ in range(replicas)) if rng.random() < 0.15 else ("A",) * replicas,
        routing=rng.choice(["prefix", "prefix", "random"]),
        max_queue_requests=rng.choice([2, 4, 64]),
        max_queue_tokens=rng.choice([40, 4096]),
        durable=rng.random() < 0.4,
        standby=rng.random() < 0.2,
        lateness=rng.choice([0.0, 0.0, 0.1]),
        lease=rng.choice([300.0, 300.0, 5.0]),
        slowness=rng.choice([1.0, 4.0, 12.0]),
    )
    shape = replace(shape, overlap=overlap and shape.depth == 1 and not shape.lateness)
    # A journal does not say which replica's numerics a choice was begun with.
    return replace(shape, numerics=("A",) * replicas) if shape.durable else shape


def draw_calls(rng: random.Random, shape: Shape, length: float) -> list[Call]:
    families = [[rng.randrange(1, VOCAB_SIZE) for _ in range(20)] for _ in range(3)]
    tenants = [Tenant("free"), Tenant("one", rng.randint(1, 3))]
    calls = []
    moment = 0.0
    for number in range(rng.randint(3, 12)):
        moment = min(moment + rng.choice([0.0, 0.0, rng.expovariate(8 / length)]), length)
        calls.append(_draw_call(rng, shape, moment, f"r{number}", families, rng.choice([*tenants, tenants[0]])))
    if rng.random() < 0.15:
        number = rng.randrange(len(calls))
        calls[number] = replace(calls[number], poison=rng.choice([0, 0, 1, 3, 8]))
    return calls


def poison_more(rng: random.Random, calls: list[Call]) -> list[Call]:
    """In some histories several requests crash engines, or one does in each of its choices."""
    if rng.random() < 0.05:
        many = rng.sample(range(len(calls)), k=min(len(calls), rng.choice([2, 3])))
        calls = [replace(call, poison=rng.choice([0, 1, 3, 8])) if n in many else call for n, call in enumerate(calls)]
    return [replace(call, poisoned=rng.choice([1, call.request.num_choices])) for call in calls]


def _draw_call(
    rng: random.Random, shape: Shape, at: float, name: str, families: list[list[int]], tenant: Tenant
) -> Call:
    prompts = tuple(_draw_prompt(rng, families) for _ in range(rng.choice([1, 1, 1, 2])))
    longest = shape.context - max(map(len, prompts))
    params = SamplingParams(
        max_tokens=min(rng.choice([1, 4, 12, 24, 24]), longest),
        min_tokens=rng.choice([0, 0, 3]),
        stop_token_ids=rng.choice([(EOS,), (EOS,), (), (EOS, 5)]),
        logprobs=rng.choice([None, None, 0]),
        prompt_logprobs=rng.choice([None] * 9 + [0]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.5]),
    )
    stop: tuple[str, ...] = ()
    if rng.random() < 0.25 and not params.min_tokens:
        stop = tuple({rng.choice(PIECES[1:]) + rng.choice(["", *PIECES[1:]]): None for _ in range(rng.randint(1, 3))})
    request = Request(
        id=name,
        tenant=tenant.name,
        prompts=prompts,
        n=rng.choice([1, 1, 1, 2, 3]),
        params=(params,) * len(prompts),
        seed=rng.getrandbits(64),
        stop=stop,
        include_stop_str_in_output=rng.random() < 0.3,
        cache_salt=rng.choice(["", "", "", "salt"]),
        session=rng.choice([None, None, b"session"]),
    )
    return Call(
        at=at,
        request=request,
        tenant=tenant,
        preparation=rng.choice([0.0, 0.001, 0.05]),
        pace=rng.choice([0.0, 0.0, 0.0, 0.2]),
        patience=rng.expovariate(1.0) if rng.random() < 0.15 else None,
        retries=rng.choice([0, 3]),
        resumes=rng.random() < 0.4,
    )


def _draw_prompt(rng: random.Random, families: list[list[int]]) -> list[int]:
    family = rng.choice(families)
    return family[: rng.randint(1, len(family))] + [rng.randrange(1, VOCAB_SIZE) for _ in range(rng.randint(0, 3))]


def draw_faults(rng: random.Random, length: float) -> list[Fault]:
    often = ["kill -9", "kill -9 at a message", "lost output"]
    count = rng.choice([0, 1, 2, 3, 4, 8])
    return sorted(
        (Fault(rng.uniform(0, length), rng.choice(FAULTS + often), rng.randrange(1000)) for _ in range(count)),
        key=lambda fault: fault.at,
    )
