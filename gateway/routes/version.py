"""``GET /version``."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel, Field

from gateway.state import State

router = APIRouter(tags=["Operation"])


class Version(BaseModel):
    """Which release this is."""

    version: str = Field(description="Version of the server.")


@router.get("/version", summary="Version of the server")
async def version(state: State) -> Version:
    """The server's version."""
    return Version(version=state.version)
