"""``GET /v1/models`` and ``GET /v1/models/{id}``; ids contain slashes."""

from __future__ import annotations

from fastapi import APIRouter

from gateway.completion.formats import reasoning_formats
from gateway.protocol.models import Model, ModelList
from gateway.protocol.openapi import errors
from gateway.protocol.reasoning import known_efforts
from gateway.state import AppState, State

router = APIRouter(tags=["OpenAI"])


def _model(state: AppState, name: str) -> Model:
    info, template, reasoning = state.lifecycle.info, state.prompts.template, state.reasoning_format
    return Model(
        id=name,
        created=state.created,
        max_model_len=None if info is None else info.max_model_len,
        reasoning_efforts=known_efforts(
            () if template is None else template.variables,
            None if reasoning is None else reasoning_formats()[reasoning].efforts,
        ),
    )


@router.get("/v1/models", summary="List models", responses=errors(401))
async def list_models(state: State) -> ModelList:
    """The names under which this server's model may be asked for."""
    return ModelList(data=[_model(state, name) for name in state.model_names])


@router.get("/v1/models/{model:path}", summary="Show a model", responses=errors(401, 404))
async def show_model(model: str, state: State) -> Model:
    """One of them."""
    return _model(state, state.model_name(model))
