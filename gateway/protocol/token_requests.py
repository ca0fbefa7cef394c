"""The schemas of the routes that turn text into token ids and back, without generating any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, Field, JsonValue

from gateway.protocol import fields
from gateway.protocol.base import RequestModel
from gateway.protocol.chat import ChatCompletionRequest
from gateway.protocol.completions import AnyTokens
from gateway.protocol.json_body import decode_object
from gateway.protocol.limits import Limited, Limits
from gateway.protocol.messages import Messages
from gateway.protocol.parse import validate
from gateway.protocol.tools import Tool

_MODEL = "Name of the model, as /v1/models lists it. Left out, it is the model that is served."


class TokenizeRequest(RequestModel):
    """What both forms of ``POST /tokenize`` have."""

    model: str | None = Field(None, description=_MODEL)
    return_token_strs: bool | None = Field(
        None, description="Add token_strs, each token as the vocabulary spells it. Default false."
    )


class TokenizeTextRequest(TokenizeRequest):
    """Body of ``POST /tokenize`` for a text."""

    prompt: str = Field(description="The text.")
    add_special_tokens: bool | None = Field(
        None, description="Let the tokenizer add what it adds by itself, such as a first token. Default true."
    )


class TokenizeChatRequest(TokenizeRequest):
    """Body of ``POST /tokenize`` for a conversation."""

    unsupported: ClassVar = {name: fields.CHAT[name] for name in ("add_special_tokens", "chat_template")}

    messages: Messages = Field(description="The conversation so far.")
    add_generation_prompt: bool | None = Field(
        None, description="End the prompt with the beginning of an assistant message. Default true."
    )
    continue_final_message: bool | None = Field(None, description="Leave the last message open. Default false.")
    chat_template_kwargs: dict[str, JsonValue] | None = Field(
        None, description="Variables that the model's chat template reads, such as enable_thinking."
    )
    tools: Annotated[list[Tool], Limited("maxItems", "max_tools")] | None = Field(
        None, description="Functions that the model is told of."
    )

    @property
    def chat(self) -> ChatCompletionRequest:
        """The request whose prompt is asked for."""
        shared = type(self).model_fields.keys() & ChatCompletionRequest.model_fields.keys()
        return ChatCompletionRequest.model_construct(**{name: getattr(self, name) for name in shared})

    @classmethod
    def check_sizes(cls, data: Mapping[str, Any], limits: Limits) -> None:
        ChatCompletionRequest.check_sizes(data, limits)

    def check(self, limits: Limits) -> None:
        self.chat.check(limits)


def parse_tokenize(body: bytes, limits: Limits) -> tuple[TokenizeRequest, list[str]]:
    """One of the two forms: a conversation where there are messages. Raises ``InvalidRequest``."""
    data = decode_object(body, limits)
    return validate(TokenizeChatRequest if "messages" in data else TokenizeTextRequest, data, limits)


class DetokenizeRequest(RequestModel):
    """Body of ``POST /detokenize``."""

    model: str | None = Field(None, description=_MODEL)
    tokens: AnyTokens = Field(description="Token ids.")


class Tokenized(BaseModel):
    """Answer of ``POST /tokenize``."""

    count: int = Field(description="How many tokens there are.")
    max_model_len: int = Field(description="Longest context: prompt and output together.")
    tokens: list[int] = Field(description="Their ids.")
    token_strs: list[str] | None = Field(description="With return_token_strs: each as the vocabulary spells it.")


class Detokenized(BaseModel):
    """Answer of ``POST /detokenize``."""

    prompt: str = Field(description="The text, special tokens included.")


class InputTokens(BaseModel):
    """Answer of ``POST /v1/chat/completions/input_tokens``."""

    object: Literal["chat.completion.input_tokens"] = Field(description="Always chat.completion.input_tokens.")
    input_tokens: int = Field(description="Tokens of the prompt that the messages become.")


class RenderedPrompt(BaseModel):
    """Answer of ``POST /v1/chat/completions/render``."""

    object: Literal["chat.completion.render"] = Field(description="Always chat.completion.render.")
    model: str = Field(description="The model's name, as it was asked for.")
    prompt: str = Field(description="The text that the chat template makes of the messages.")
    prompt_token_ids: list[int] = Field(description="The same as the model sees it.")
