"""Schemas of ``/v1/models``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class Model(BaseModel):
    """A model that can be asked for."""

    id: str = Field(description="The name to send as model.")
    object: Literal["model"] = Field("model", description="Always model.")
    created: int = Field(description="When the server started, in seconds since 1970.")
    owned_by: str = Field("penstock", description="Who serves it.")
    max_model_len: int | None = Field(
        None, description="Longest context in tokens, prompt and output together; null until the engine is up."
    )
    reasoning_efforts: list[str] = Field(
        description="What reasoning_effort may be; empty where the model's chat template does not steer reasoning."
    )


class ModelList(BaseModel):
    """All models that can be asked for."""

    object: Literal["list"] = Field("list", description="Always list.")
    data: list[Model] = Field(description="The models; all of them are names of one.")
