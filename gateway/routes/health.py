"""Is it alive, and does it want work: ``GET /health`` and ``GET /ready``."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from gateway.state import State

router = APIRouter(tags=["Operation"])

RETRY_AFTER = {"retry-after": "2", "retry-after-ms": "2000"}


class Health(BaseModel):
    """Whether this server works."""

    status: str = Field(description="ok, or failed.")
    reason: str | None = Field(None, description="What failed.")


class Readiness(BaseModel):
    """Whether new requests are welcome."""

    ready: bool = Field(description="Whether new requests are welcome.")
    replicas_up: int = Field(description="Replicas whose engine serves.")
    replicas: int = Field(description="Replicas there are.")
    reason: str | None = Field(None, description="Why not.")


@router.get(
    "/health",
    summary="Is it alive",
    response_model=Health,
    responses={503: {"model": Health, "description": "Failed."}},
)
async def health(state: State) -> JSONResponse:
    """200 while the server works, also while an engine starts again; 503 once it has given up on that."""
    failure = state.failure()
    if failure is None:
        return JSONResponse({"status": "ok", "reason": None})
    return JSONResponse({"status": "failed", "reason": failure}, status_code=503)


@router.get(
    "/ready",
    summary="Does it want work",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not now; see Retry-After."}},
)
async def ready(state: State) -> JSONResponse:
    """200 if new requests are welcome; 503 while no engine is up and while the server shuts down."""
    up, replicas = state.lifecycle.replicas
    counts = {"replicas_up": up, "replicas": replicas}
    if state.lifecycle.ready:
        return JSONResponse({"ready": True, **counts, "reason": None})
    reason = state.failure()
    if reason is None:
        reason = "the server is shutting down" if state.lifecycle.draining else "the engine is starting"
    return JSONResponse({"ready": False, **counts, "reason": reason}, status_code=503, headers=RETRY_AFTER)
