"""What the engine process and its ranks say to each other: one msgpack frame each, a tagged struct with a schema."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import msgspec
import numpy as np

from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig
from engine.executor.base import ModelFacts

# --- engine → every rank ----------------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Join the other ranks, build this rank's part of the model and fill its weights: ``Loading`` …, ``Loaded``."""

    config: EngineConfig


class MeasureCache(msgspec.Struct, frozen=True, tag="measure"):
    """Answered by ``Capacity``."""


class MakeCache(msgspec.Struct, frozen=True, tag="make"):
    """Answered by ``CacheMade``."""

    num_blocks: int


class Compute(msgspec.Struct, frozen=True, tag="compute"):
    """One step. The rank that samples answers with ``Computed``."""

    batch: ScheduledBatch


# --- rank → engine ----------------------------------------------------------------------------------------


class RankLoading(msgspec.Struct, frozen=True, tag="loading"):
    stage: str
    done: int
    total: int
    unit: str


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    facts: ModelFacts
    """Bytes are those of this rank."""


class Capacity(msgspec.Struct, frozen=True, tag="capacity"):
    num_blocks: int


class CacheMade(msgspec.Struct, frozen=True, tag="made"):
    pass


class Computed(msgspec.Struct, frozen=True, tag="computed"):
    result: StepResult


class RankFailed(msgspec.Struct, frozen=True, tag="failed"):
    """Said just before the rank ends."""

    message: str
    kind: str
    """``model`` or ``configuration`` for a mistake of that kind, ``fault`` for a fault of ours."""
    trace: str = ""
    """Of a fault."""


ToRank: TypeAlias = Load | MeasureCache | MakeCache | Compute
FromRank: TypeAlias = RankLoading | Loaded | Capacity | CacheMade | Computed | RankFailed


def _encode_array(value: Any) -> bytes:
    if isinstance(value, np.ndarray) and value.dtype == np.int32:
        return value.tobytes()
    raise NotImplementedError(f"{type(value).__name__} cannot be sent to a rank")


def _decode_array(_: type, value: Any) -> Any:
    return np.frombuffer(value, np.int32)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_array)
_to_rank = msgspec.msgpack.Decoder(ToRank, dec_hook=_decode_array)
_from_rank = msgspec.msgpack.Decoder(FromRank)


def encode(message: ToRank | FromRank) -> bytes:
    return _encoder.encode(message)


def decode_to_rank(frame: bytes) -> ToRank:
    """Raises ``msgspec.DecodeError`` (or its subclass ``ValidationError``) or ValueError on anything else."""
    message: ToRank = _to_rank.decode(frame)
    if isinstance(message, Compute):
        batch = message.batch
        tables = batch.block_tables.reshape(len(batch.query_lens), -1)
        return Compute(replace(batch, block_tables=tables))
    return message


def decode_from_rank(frame: bytes) -> FromRank:
    """Raises ``msgspec.DecodeError`` (or its subclass ``ValidationError``) on anything else."""
    message: FromRank = _from_rank.decode(frame)
    return message
