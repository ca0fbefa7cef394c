"""``GET /v1/status``: what the server does now, for people who watch. Engines are asked only when it is."""

from __future__ import annotations

import base64

from fastapi import APIRouter
from pydantic import BaseModel, Field

from engine.messages import PoolPicture
from gateway.protocol.openapi import errors
from gateway.state import State

router = APIRouter(tags=["Penstock"])


class SequenceStatus(BaseModel):
    """One running sequence; nothing tells whose it is."""

    owner: int = Field(description="Its number in the cells of the pool.")
    prompt_tokens: int = Field(description="Tokens of its prompt.")
    cached_tokens: int = Field(description="Prompt tokens that came from the prefix cache.")
    output_tokens: int = Field(description="Tokens that it has generated.")
    blocks: int = Field(description="Blocks that it holds, shared ones included.")


class PoolStatus(BaseModel):
    """The engine of one replica: its batch, its queue and its block pool."""

    running: int = Field(description="Sequences that hold blocks.")
    waiting: int = Field(description="Sequences in the engine's queue.")
    blocks_used: int = Field(description="Blocks that sequences hold.")
    blocks_total: int = Field(description="Blocks that there are.")
    block_size: int = Field(description="Tokens in a block.")
    stride: int = Field(description="The cells show block 0 and every so many-th after it.")
    cells: str = Field(
        description="Base64 of a byte for each block shown, 4,096 at most: 0 empty, 1 free and kept for its prefix, "
        "2 shared by several sequences, from 3 on the owner that alone holds it."
    )
    sequences: list[SequenceStatus] = Field(description="The oldest 64.")


class ReplicaStatus(BaseModel):
    """One replica."""

    replica: int = Field(description="Its number, from 0.")
    up: bool = Field(description="Whether its engine serves.")
    draining: bool = Field(description="Whether it is sent nothing new.")
    pool: PoolStatus | None = Field(description="null where its engine is not up or has not answered yet.")


class Status(BaseModel):
    """What the server does at this moment."""

    model: str = Field(description="The model's first name.")
    version: str = Field(description="Version of the server.")
    ready: bool = Field(description="Whether new requests are welcome.")
    queued: int = Field(description="Requests accepted of which no engine has computed anything.")
    replicas: list[ReplicaStatus] = Field(description="By number.")


@router.get("/v1/status", summary="What the server does now", responses=errors(401))
async def show_status(state: State) -> Status:
    """Batch, queue and block pool of every replica. An engine is asked at most once in 0.4 s, however many watch."""
    pictures = await state.look()
    up = {view.replica: view for view in state.lifecycle.replica_views()}
    _, count = state.lifecycle.replicas
    info = state.lifecycle.info
    block_size = 0 if info is None else info.block_size
    return Status(
        model=state.model_names[0],
        version=state.version,
        ready=state.lifecycle.ready,
        queued=state.lifecycle.queued_requests,
        replicas=[
            ReplicaStatus(
                replica=number,
                up=number in up,
                draining=number in up and up[number].draining,
                pool=_pool(pictures[number], block_size) if number in up and number in pictures else None,
            )
            for number in range(count)
        ],
    )


def _pool(picture: PoolPicture, block_size: int) -> PoolStatus:
    return PoolStatus(
        running=picture.state.running,
        waiting=picture.state.waiting,
        blocks_used=picture.state.blocks_used,
        blocks_total=picture.state.blocks_total,
        block_size=block_size,
        stride=picture.stride,
        cells=base64.b64encode(picture.cells).decode(),
        sequences=[
            SequenceStatus(
                owner=each.owner,
                prompt_tokens=each.prompt_tokens,
                cached_tokens=each.cached_tokens,
                output_tokens=each.output_tokens,
                blocks=each.blocks,
            )
            for each in picture.sequences
        ],
    )
