"""``GET /metrics`` for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway.state import State

router = APIRouter(tags=["Operation"])

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(state: State) -> Response:
    """All metrics in Prometheus' plain text format."""
    return Response(state.render_metrics(), media_type=CONTENT_TYPE)
