"""Answers as the OpenAPI document describes them; ``chat_answer.py`` and ``completion_answer.py`` write them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class ErrorDetails(BaseModel):
    """What went wrong."""

    message: str = Field(description="In words.")
    type: str = Field(description="Class of the error, such as invalid_request_error.")
    param: str | None = Field(description="The request field that is to blame, such as messages[0].content.")
    code: str | None = Field(description="A fixed word for programs, such as context_length_exceeded.")


class ErrorBody(BaseModel):
    """The body of every answer that is no success."""

    error: ErrorDetails = Field(description="The one error.")


class PromptTokensDetails(BaseModel):
    """Of the prompt's tokens."""

    cached_tokens: int = Field(description="How many came from the prefix cache.")


class CompletionTokensDetails(BaseModel):
    """Of the generated tokens."""

    reasoning_tokens: int = Field(description="How many are reasoning, or mark where it begins and ends.")


class Usage(BaseModel):
    """Token counts of a request, over all its choices."""

    prompt_tokens: int = Field(description="Tokens of the prompts.")
    completion_tokens: int = Field(description="Tokens that were generated.")
    total_tokens: int = Field(description="Both together.")
    prompt_tokens_details: PromptTokensDetails | None = Field(None, description="More about the prompts' tokens.")
    completion_tokens_details: CompletionTokensDetails | None = Field(None, description="Where there is reasoning.")


class _Envelope(BaseModel):
    id: str = Field(description="Id of the answer, the same in all its chunks.")
    created: int = Field(description="When it was made, in seconds since 1970.")
    model: str = Field(description="The model's name, as it was asked for.")
    system_fingerprint: str = Field(description="Where it is equal, the same request gives the same answer.")
    service_tier: Literal["default"] = Field(description="There is one tier.")


class PromptLogprob(BaseModel):
    """A token that stands at a position of the prompt, or might have."""

    logprob: float = Field(description="Its log-probability, natural logarithm.")
    rank: int = Field(description="Its rank there, 1 for the likeliest.")
    decoded_token: str = Field(description="Its text; U+FFFD for a part of a character.")


class TopLogprob(BaseModel):
    """A token that might have stood at a position."""

    token: str = Field(description="Its text; U+FFFD for a part of a character.")
    logprob: float = Field(description="Its log-probability, natural logarithm.")
    bytes: list[int] = Field(description="Its exact bytes.")


class ChatLogprob(TopLogprob):
    """The token that stands at a position."""

    top_logprobs: list[TopLogprob] = Field(description="The likeliest tokens there, as many as were asked for.")


class ChatLogprobs(BaseModel):
    """Log-probabilities of a choice's tokens."""

    content: list[ChatLogprob] = Field(description="One entry for each token of the text.")
    refusal: None = Field(None, description="Always null.")


class CalledFunction(BaseModel):
    """What is called."""

    name: str = Field(description="The function's name.")
    arguments: str = Field(description="Its arguments as the model wrote them: JSON, unless it made a mistake.")


class AnswerToolCall(BaseModel):
    """A tool call that the model makes."""

    id: str = Field(description="Its id, which the result names.")
    type: Literal["function"] = Field(description="function.")
    function: CalledFunction = Field(description="The function and its arguments.")


class FunctionDelta(BaseModel):
    """A piece of a call."""

    name: str | None = Field(None, description="In the call's first piece.")
    arguments: str | None = Field(None, description="The next piece of the arguments.")


class ToolCallDelta(BaseModel):
    """News of a tool call."""

    index: int = Field(description="Which call, from 0.")
    id: str | None = Field(None, description="In its first piece.")
    type: Literal["function"] | None = Field(None, description="In its first piece.")
    function: FunctionDelta = Field(description="The piece.")


class AssistantAnswer(BaseModel):
    """What the model says."""

    role: Literal["assistant"] = Field(description="assistant.")
    content: str | None = Field(description="The text; null where there are tool calls or reasoning alone.")
    reasoning_content: str | None = Field(None, description="The model's reasoning, where it is told from the answer.")
    tool_calls: list[AnswerToolCall] | None = Field(None, description="The tool calls that it makes, if any.")
    refusal: None = Field(description="Always null: a refusal is ordinary text here.")
    annotations: list[None] = Field(description="Always empty.")


FinishReason = Literal["stop", "length", "tool_calls", "abort"]
_FINISH = (
    "stop at a stop token or string, tool_calls where it makes some, length at max_tokens, "
    "abort where the server ended it."
)
_TOKEN_IDS = "With return_token_ids: the tokens of the text, and the stop token that ended it."
_PROMPT_LOGPROBS = "Where asked for: null for the prompt's first token, then for each the tokens there by their ids."
_STOP_REASON = "The stop string or stop_token_ids entry that ended it; null for the model's own end."


class ChatChoice(BaseModel):
    """One answer."""

    index: int = Field(description="Its number, from 0.")
    message: AssistantAnswer = Field(description="The message.")
    logprobs: ChatLogprobs | None = Field(description="Where asked for.")
    finish_reason: FinishReason = Field(description=_FINISH)
    stop_reason: str | int | None = Field(description=_STOP_REASON)
    token_ids: list[int] | None = Field(None, description=_TOKEN_IDS)


class ChatCompletion(_Envelope):
    """The answer to a conversation."""

    object: Literal["chat.completion"] = Field(description="Always chat.completion.")
    choices: list[ChatChoice] = Field(description="As many as n.")
    usage: Usage = Field(description="Token counts.")
    prompt_token_ids: list[int] | None = Field(None, description="With return_token_ids: the prompt's tokens.")
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = Field(None, description=_PROMPT_LOGPROBS)


class ChatDelta(BaseModel):
    """What is new."""

    role: Literal["assistant"] | None = Field(None, description="In a choice's first chunk.")
    content: str | None = Field(None, description="The next piece of text.")
    reasoning_content: str | None = Field(None, description="The next piece of reasoning.")
    tool_calls: list[ToolCallDelta] | None = Field(None, description="News of tool calls.")
    refusal: None = Field(None, description="Always null.")


class ChatChunkChoice(BaseModel):
    """News of one choice."""

    index: int = Field(description="Which choice.")
    delta: ChatDelta = Field(description="The news.")
    logprobs: ChatLogprobs | None = Field(description="Of the tokens of this piece, where asked for.")
    finish_reason: FinishReason | None = Field(description=f"In a choice's last chunk: {_FINISH}")
    stop_reason: str | int | None = Field(None, description=_STOP_REASON)
    token_ids: list[int] | None = Field(None, description="With return_token_ids: the tokens of this piece.")
    prompt_token_ids: list[int] | None = Field(None, description="With return_token_ids, in the first chunk.")


class ChatCompletionChunk(_Envelope):
    """A piece of the answer to a conversation."""

    object: Literal["chat.completion.chunk"] = Field(description="Always chat.completion.chunk.")
    choices: list[ChatChunkChoice] = Field(description="One choice; none in the usage chunk.")
    usage: Usage | None = Field(None, description="With include_usage: null but in the last chunk.")


class TextLogprobs(BaseModel):
    """Parallel arrays with an item for each token, a stop token at the end included."""

    tokens: list[str] = Field(description="Text of each token; bytes:\\xe2\\x82 for a part of a character.")
    token_logprobs: list[float | None] = Field(description="Log-probability of each; null for a prompt's first.")
    top_logprobs: list[dict[str, float] | None] = Field(description="The likeliest tokens at each position.")
    text_offset: list[int] = Field(description="Where in the choice's text each begins, in characters.")


class TextChoice(BaseModel):
    """One continuation, or a piece of it."""

    index: int = Field(description="Its number: choice i continues prompt i // n.")
    text: str = Field(description="The text; with echo, the prompt before it.")
    logprobs: TextLogprobs | None = Field(description="Where asked for.")
    finish_reason: FinishReason | None = Field(description=_FINISH)
    stop_reason: str | int | None = Field(None, description=_STOP_REASON)
    token_ids: list[int] | None = Field(None, description=_TOKEN_IDS)
    prompt_token_ids: list[int] | None = Field(None, description="With return_token_ids: the prompt's tokens.")
    prompt_logprobs: list[dict[str, PromptLogprob] | None] | None = Field(None, description=_PROMPT_LOGPROBS)


class TextCompletion(_Envelope):
    """What follows the prompts, or a piece of it."""

    object: Literal["text_completion"] = Field(description="Always text_completion.")
    choices: list[TextChoice] = Field(description="n for each prompt; none in a stream's usage chunk.")
    usage: Usage | None = Field(None, description="Token counts; in a stream with include_usage, in the last chunk.")


class GeneratedText(BaseModel):
    """Answer of ``POST /generation``."""

    text: str = Field(description="The prompt, and the text that follows it.")
