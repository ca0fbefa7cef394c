"""``POST /generation``: one prompt, one text, for clients that were written for such a service."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from gateway.endpoint import Endpoint
from gateway.protocol.completion_answer import CompletionStream
from gateway.protocol.generation import GenerationBody, GenerationRequest, parse_generation
from gateway.protocol.openapi import ANY_POST, errors, request_body
from gateway.protocol.responses import GeneratedText
from gateway.routes.completions import plan
from gateway.state import Context, State

router = APIRouter(tags=["Compatibility"])

GENERATION = Endpoint("gen", parse_generation, plan, CompletionStream, GenerationBody)


@router.post(
    "/generation",
    summary="Continue a text, and give it back with its beginning",
    response_class=Response,
    responses={200: {"model": GeneratedText, "description": "The text."}, **errors(*ANY_POST)},
    openapi_extra=request_body(GenerationRequest),
)
async def generate(request: Request, state: State, context: Context) -> Response:
    """The prompt and what the model writes after it."""
    return await GENERATION.serve(request, state, context)
