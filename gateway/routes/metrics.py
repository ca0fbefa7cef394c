"""``GET /metrics`` for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.state import State

router = APIRouter(tags=["Operation"])


@router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
async def metrics(request: Request, state: State) -> Response:
    """All metrics in OpenMetrics' text format, with exemplars, for who accepts it, else in Prometheus' plain one."""
    text, content_type = state.render_metrics(request.headers.get("accept", ""))
    return Response(text, media_type=content_type)
