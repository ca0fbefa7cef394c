"""Wire structs between the gateway and one engine process, in both directions.

Each message is one msgpack frame over ZeroMQ, a tagged struct with a schema; nothing is ever unpickled.
A message from one direction cannot be decoded as the other's: there are two unions.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from engine.grammar import Grammar
from engine.sampling_params import SamplingParams
from observability.records import ChoiceStats, EngineState, StepStats

EngineFinish = Literal["stop", "length"]


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position, natural logarithm."""

    logprob: float
    """Of the token that stands at the position."""
    rank: int
    """Its rank there, 1 for the likeliest."""
    top_ids: list[int]
    top_logprobs: list[float]
    """Of the likeliest tokens, in falling order; ties by the lower token id."""


# --- gateway → engine -------------------------------------------------------------------------------------


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """Generate one choice. Starting an id again with a higher attempt replaces the earlier one."""

    id: str
    """Opaque, one for each choice."""
    attempt: int
    prompt: list[int]
    output_prefix: list[int] = []
    """Output tokens that an earlier attempt has already sent; generation goes on after them."""
    params: SamplingParams
    seed: int
    """64 bits, unsigned; shared by the choices of a request."""
    choice: int = 0
    """Index of the choice in its request; part of the counter that sampling noise is drawn from."""
    cache_salt: str = ""
    """Requests share prefix-cache blocks only where their salts are equal."""
    at_once: bool = False
    """Until the next Start, tokens wait for none of the next steps: it is to be known how far this choice comes."""
    grammar: Grammar | None = None
    """What the output, ``output_prefix`` included, has to look like. It ends by a stop token where the grammar may."""


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag="abort"):
    """Forget a choice; a no-op where the id or the attempt is not known."""

    id: str
    attempt: int


class Serve(msgspec.Struct, frozen=True, kw_only=True, tag="serve"):
    """To an engine that was launched to stand by: make the cache and say ``Ready``."""


class Drain(msgspec.Struct, frozen=True, kw_only=True, tag="drain"):
    """End the process once nothing is pending."""


class ResetCache(msgspec.Struct, frozen=True, kw_only=True, tag="reset_cache"):
    """Choices that are started after this find nothing in the prefix cache of what is there now."""


class Look(msgspec.Struct, frozen=True, kw_only=True, tag="look"):
    """Send one ``PoolPicture``: somebody watches."""

    cells: int
    """Most blocks to show."""


class Alive(msgspec.Struct, frozen=True, kw_only=True, tag="alive"):
    """The gateway is there. Sent at a fixed interval, within which it may have nothing else to say."""


# --- engine → gateway -------------------------------------------------------------------------------------


class Tokens(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """New output tokens of one choice."""

    id: str
    attempt: int
    at: int
    """Number of output tokens before these; the receiver checks it against what it holds."""
    ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    """One for each id, where asked for."""
    prompt_logprobs: list[TokenLogprobs] | None = None
    """With the first tokens of an attempt, where asked for: one for each prompt token but the first."""
    finish: EngineFinish | None = None
    failure: str | None = None
    """Why the engine cannot go on with this choice; it goes on with the others."""
    refusal: str | None = None
    """The same where the request asks for what cannot be: nothing may follow, or its grammar has reached a limit."""
    stats: ChoiceStats | None = None
    """With the first tokens of an attempt."""


class StepOutput(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """What steps have produced, in one frame."""

    started: list[str]
    """Ids of choices that were computed for the first time."""
    outputs: list[Tokens]
    """One at most for each attempt."""
    stats: list[StepStats]
    """One for each step, in order."""


class CacheEvents(msgspec.Struct, frozen=True, kw_only=True, tag="cache"):
    """How the set of blocks in the engine's prefix cache has changed; only with ``EngineConfig.cache_events``.

    A new engine's cache is empty. A StepOutput comes after the changes of the steps that it tells of.
    """

    stored: list[bytes]
    """Digests of blocks that can now be found, each chain from its head to its tail."""
    evicted: list[bytes]


class Rejected(msgspec.Struct, frozen=True, kw_only=True, tag="rejected"):
    """The engine cannot serve this choice (the gateway's own checks should have caught it)."""

    id: str
    attempt: int
    message: str
    no_room: bool = False
    """Whether this engine's context is too small for what is known of the choice: nothing is wrong with the request."""


class Idle(msgspec.Struct, frozen=True, kw_only=True, tag="idle"):
    """Nothing is pending any more, and it was an abort that ended it: no step will report the new state."""

    state: EngineState


class SequencePicture(msgspec.Struct, frozen=True, array_like=True):
    """One running sequence, for people to see; it tells nothing of whose it is."""

    owner: int
    """As in the cells of the picture."""
    prompt_tokens: int
    cached_tokens: int
    """Those of them that came from the prefix cache when it was last admitted."""
    output_tokens: int
    blocks: int


class PoolPicture(msgspec.Struct, frozen=True, kw_only=True, tag="pool_picture"):
    """Who holds which blocks at one moment: the answer to ``Look``."""

    state: EngineState
    stride: int
    """The picture shows block 0 and every ``stride``-th after it."""
    cells: bytes
    """One for each block shown: 0 empty, 1 free but findable by its prefix, 2 held by several sequences, and from 3 on
    the owner that alone holds it."""
    sequences: list[SequencePicture]
    """The oldest first; not all where there are many."""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag="heartbeat"):
    """Sent at a fixed interval by a thread that looks at the step counter; progress is judged against pending."""

    step: int
    pending: int
    limit: float | None = None
    """Seconds after which the step under way is stuck, or the next one late; None while nothing tells."""


class Loading(msgspec.Struct, frozen=True, kw_only=True, tag="loading"):
    """Start-up progress, for a progress bar. ``done`` and ``total`` are in the stage's own unit."""

    stage: str
    done: int
    total: int
    unit: str = ""


class Standing(msgspec.Struct, frozen=True, kw_only=True, tag="standing"):
    """The weights are loaded; what is missing is made when ``Serve`` comes."""


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about a loaded engine."""

    ranks: int = 1
    """Processes that hold the model together."""
    device: str
    """``cpu`` or ``cuda:0 (NAME)``; of several ranks, the first one's."""
    dtype: str
    """Of the weights, or of what they were quantized from, as torch names it without the prefix."""
    quantization: str = "none"
    parameters: int
    weight_bytes: int
    """Held, in whatever form they are computed with."""
    max_model_len: int
    block_size: int
    num_blocks: int
    cache_bytes: int
    kv_cache_dtype: str = "auto"
    """As it was asked for."""
    vocab_size: int
    eos_token_ids: list[int]
    fingerprint: str
    """Numerics fingerprint: replicas with the same one give the same tokens in batch-invariant mode."""
    kernels: dict[str, str]
    """Op name → provider."""
    kernel_builds: list[str] = []
    """Name and digest of each compiled build that computes."""
    load_seconds: dict[str, float]
    """Start-up stage → seconds."""

    @property
    def cache_tokens(self) -> int:
        return self.num_blocks * self.block_size


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The engine cannot start or go on; sent just before the process ends."""

    message: str
    """Readable by the person at the terminal."""
    expected: bool
    """True for a mistake in the model or the settings (no traceback helps), False for a fault of ours."""


ToEngine: TypeAlias = Start | Abort | Serve | Drain | Alive | ResetCache | Look
FromEngine: TypeAlias = (
    StepOutput | Idle | CacheEvents | Rejected | Heartbeat | Loading | Standing | Ready | Failed | PoolPicture
)

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_from_engine = msgspec.msgpack.Decoder(FromEngine)


def encode(message: ToEngine | FromEngine) -> bytes:
    """One message as one frame."""
    return _encoder.encode(message)


def decode_to_engine(frame: bytes) -> ToEngine:
    """Raises ``msgspec.DecodeError`` (or its subclass ``ValidationError``) on anything else."""
    message: ToEngine = _to_engine.decode(frame)
    return message


def decode_from_engine(frame: bytes) -> FromEngine:
    """Raises ``msgspec.DecodeError`` (or its subclass ``ValidationError``) on anything else."""
    message: FromEngine = _from_engine.decode(frame)
    return message
