"""``GET /docs``: the OpenAPI document as a page to read and to try, with nothing loaded from elsewhere."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from gateway.errors import NotFound

router = APIRouter(include_in_schema=False)

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon.png": "image/png",
}
"""Swagger UI, as the package ``fastapi-offline`` carries it. A name that is not here is a 404."""


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The page."""
    return get_swagger_ui_html(
        openapi_url=str(request.app.openapi_url),
        title=f"{request.app.title}: API",
        swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css",
        swagger_favicon_url="/docs/favicon.png",
    )


@router.get("/docs/{file}")
async def asset(file: str) -> Response:
    """One of its files. Raises ``NotFound`` for any other."""
    if file not in ASSETS:
        raise NotFound(f"There is no file /docs/{file}.")
    # Read when asked for: few people open this page, and it is two megabytes.
    body = resources.files("fastapi_offline").joinpath("static", file).read_bytes()
    return Response(body, media_type=ASSETS[file], headers={"cache-control": "max-age=86400"})
