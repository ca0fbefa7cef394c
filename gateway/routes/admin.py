"""``/admin``: what only holders of an admin key may do. Without such keys there are no admin routes."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from gateway.errors import NotFound
from gateway.protocol.openapi import errors
from gateway.state import State

router = APIRouter(prefix="/admin", tags=["Administration"])


class Replica(BaseModel):
    """One replica, as the gateway sees it."""

    replica: int = Field(description="Its number, from 0.")
    up: bool = Field(description="Whether its engine serves.")
    epoch: int | None = Field(None, description="Which of its engines it is; null where none is up.")
    draining: bool = Field(False, description="Whether it is sent nothing new until its engine is another one.")
    running: int = Field(0, description="Choices that it has been sent and that have not ended.")


class Replicas(BaseModel):
    """All of them."""

    ready: bool = Field(description="Whether the server takes new requests.")
    replicas: list[Replica] = Field(description="By number.")


class CacheReset(BaseModel):
    """Which prefix caches were emptied."""

    replicas: list[int] = Field(description="Replicas whose engine was told; one that is not up has no cache.")


@router.get("/replicas", summary="Show the replicas", responses=errors(401, 404))
async def show_replicas(state: State) -> Replicas:
    """Which replicas are up, which are draining, and how much each has to do."""
    _, count = state.lifecycle.replicas
    up = {view.replica: view for view in state.lifecycle.replica_views()}
    replicas = [
        Replica(
            replica=number,
            up=True,
            epoch=up[number].epoch,
            draining=up[number].draining,
            running=up[number].running,
        )
        if number in up
        else Replica(replica=number, up=False)
        for number in range(count)
    ]
    return Replicas(ready=state.lifecycle.ready, replicas=replicas)


@router.post("/replicas/{replica}/drain", summary="Send a replica nothing new", responses=errors(400, 401, 404))
async def drain_replica(replica: int, state: State) -> Replicas:
    """What the replica has begun goes on there; new requests go to others until its engine has been started anew.

    Where no other replica is up, the server takes no new requests. A replica that is not up is a 404.
    """
    if not any(view.replica == replica for view in state.lifecycle.replica_views()):
        raise NotFound(f"There is no replica {replica} that is up.", param="replica")
    state.lifecycle.drain_replica(replica)
    return await show_replicas(state)


@router.post("/reset_prefix_cache", summary="Empty the prefix caches", responses=errors(401, 404))
async def reset_prefix_cache(state: State) -> CacheReset:
    """Requests that are sent from now on find nothing of what is cached now, in any replica.

    Those that are running keep what they hold, and go on to fill the cache.
    """
    return CacheReset(replicas=state.lifecycle.reset_prefix_caches())
