"""The schema and the answer of ``/generation``: the route of services that had one prompt, one text, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeAlias

from pydantic import Field

from gateway.errors import InvalidRequest
from gateway.protocol.answer import to_json
from gateway.protocol.base import RequestModel
from gateway.protocol.completion_answer import CompletionBody
from gateway.protocol.completions import CompletionRequest
from gateway.protocol.limits import Limited, Limits, at_most
from gateway.protocol.parse import parse
from gateway.protocol.responses import GeneratedText

MaxTokens: TypeAlias = Annotated[int, Limited("maximum", "max_generation_tokens")]


class GenerationRequest(RequestModel):
    """Body of ``POST /generation``."""

    demands: ClassVar[Mapping[str, Any]] = {
        "anyOf": [
            {"required": [name], "properties": {name: {"type": "integer"}}} for name in ("max_tokens", "max_new_tokens")
        ]
    }

    model: str | None = Field(
        None, description="Name of the model, as /v1/models lists it. Left out, it is the model that is served."
    )
    prompt: str = Field(min_length=1, description="Text to continue.")
    max_tokens: MaxTokens | None = Field(None, ge=1, description="Most tokens to generate; required.")
    max_new_tokens: MaxTokens | None = Field(
        None, ge=1, description="Another name of max_tokens; where both are given they must agree."
    )
    top_k: int | None = Field(
        None, ge=1, lt=2**31, description="Sample among this many of the likeliest tokens. Left out, among all."
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Sample among the likeliest tokens that together have this probability. Default 1.",
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="Divides the logits before sampling. 0 takes the likeliest token. Default 1."
    )

    def check(self, limits: Limits) -> None:
        if self.max_tokens is None and self.max_new_tokens is None:
            raise InvalidRequest(
                "Missing required parameter: 'max_tokens'.", param="max_tokens", code="missing_required_parameter"
            )
        at_most(self.max_tokens, limits, "max_generation_tokens", "max_tokens")
        at_most(self.max_new_tokens, limits, "max_generation_tokens", "max_new_tokens")
        if None not in (self.max_tokens, self.max_new_tokens) and self.max_tokens != self.max_new_tokens:
            raise InvalidRequest(
                "'max_tokens' and 'max_new_tokens' differ. Set one of them.", param="max_tokens", code="invalid_value"
            )

    @property
    def completion(self) -> CompletionRequest:
        """The same, as ``/v1/completions`` is asked for it."""
        return CompletionRequest.model_construct(
            model=self.model,
            prompt=self.prompt,
            max_tokens=self.max_tokens or self.max_new_tokens,
            top_k=self.top_k,
            top_p=self.top_p,
            temperature=self.temperature,
            echo=True,
        )


def parse_generation(body: bytes, limits: Limits) -> tuple[CompletionRequest, list[str]]:
    """As ``parse``, but gives the completion that is asked for. Raises ``InvalidRequest``."""
    request, passed_over = parse(GenerationRequest, body, limits)
    request.check(limits)
    return request.completion, passed_over


class GenerationBody(CompletionBody):
    """``{"text"}``: the prompt and what follows it."""

    def body(self) -> bytes:
        generated: dict[str, Any] = self.choice(0, self._choices[0])
        return to_json(GeneratedText(text=generated["text"]).model_dump())
