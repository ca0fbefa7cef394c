"""The request schema of ``/v1/chat/completions``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, JsonValue

from gateway.errors import InvalidRequest
from gateway.protocol import fields
from gateway.protocol.constrained import ConstrainedRequest
from gateway.protocol.fields import NoOp
from gateway.protocol.limits import Limited, Limits, at_most
from gateway.protocol.messages import AssistantMessage, Messages, check_message_sizes, check_messages, text_of
from gateway.protocol.reasoning import Effort
from gateway.protocol.tools import Tool, ToolChoice, check_tool_sizes, check_tools, forces_a_call


class ChatCompletionRequest(ConstrainedRequest):
    """Body of ``POST /v1/chat/completions``."""

    unsupported: ClassVar[Mapping[str, NoOp]] = fields.CHAT

    messages: Messages = Field(description="The conversation so far.")
    max_tokens: int | None = Field(
        None, ge=1, description="Older name of max_completion_tokens; where both are given they must agree."
    )
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Most tokens to generate. Left out, it is all that the context leaves."
    )
    logprobs: bool | None = Field(
        None, description="Report the log-probability of every generated token, of those too that ended the answer."
    )
    top_logprobs: Annotated[int, Limited("maximum", "max_logprobs")] | None = Field(
        None, ge=0, description="With logprobs: how many of the likeliest tokens to report at each position."
    )
    add_generation_prompt: bool | None = Field(
        None, description="End the prompt with the beginning of an assistant message. Default true."
    )
    continue_final_message: bool | None = Field(
        None, description="Leave the last message open, so that the answer continues it. Default false."
    )
    echo: bool | None = Field(
        None, description="Put the text of the last message before the answer, where that is the assistant's too."
    )
    chat_template_kwargs: dict[str, JsonValue] | None = Field(
        None, description="Variables that the model's chat template reads, such as enable_thinking."
    )
    reasoning_effort: Effort | None = Field(
        None, description="How much the model is to reason, where its chat template can be told. See docs/tools.md."
    )
    thinking_token_budget: int | None = Field(
        None, ge=0, lt=2**31, description="Most tokens of reasoning; then its end follows, and the answer."
    )
    include_reasoning: bool | None = Field(
        None,
        description="Show the reasoning as reasoning_content. Default true; it is generated and counted all the same.",
    )
    tools: Annotated[list[Tool], Limited("maxItems", "max_tools")] | None = Field(
        None, description="Functions that the model may call. See docs/tools.md."
    )
    tool_choice: ToolChoice | None = Field(
        None,
        description="Whether it calls them: none, auto as it likes (the default), required, one by name, or some.",
    )
    parallel_tool_calls: bool | None = Field(
        None, description="Whether it may call several at once, the default. With false the answer ends with a call."
    )

    @property
    def offered_tools(self) -> list[Tool]:
        """What the model is told of: with ``tool_choice`` none, nothing.

        All of them where some are allowed, as OpenAI has it: the prompt, and what is cached of it, stays the same.
        """
        return [] if self.tool_choice == "none" else self.tools or []

    def extras(self) -> set[tuple[str, str]]:
        """(role, member) of what its messages have and not every chat template shows."""
        found = {(message.role_for_template, "name") for message in self.messages if message.name is not None}
        if any(isinstance(each, AssistantMessage) and each.has_reasoning for each in self.messages):
            found.add(("assistant", "reasoning_content"))
        return found

    @property
    def form_param(self) -> str | None:
        """With tools, what the answer has to be may follow from them."""
        by_form = None if forces_a_call(self.tool_choice) else super().form_param
        return by_form or ("tools" if self.offered_tools else None)

    @property
    def max_output(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def max_output_param(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"

    @property
    def num_logprobs(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def generation_prompt(self) -> bool:
        if self.add_generation_prompt is None:
            return not self.continue_final_message
        return self.add_generation_prompt

    @property
    def continued_text(self) -> str | None:
        """The text of the last message, where the answer is to continue it."""
        return text_of(self.messages[-1].content) if self.continue_final_message else None

    @property
    def echoed_text(self) -> str | None:
        """Of the last message, where it is to stand before the answer; None where there is none."""
        last = self.messages[-1]
        return text_of(last.content) if self.echo and isinstance(last, AssistantMessage) else None

    def template_messages(self) -> list[dict[str, Any]]:
        """The messages as chat templates expect them."""
        return [message.for_template() for message in self.messages]

    @classmethod
    def check_sizes(cls, data: Mapping[str, Any], limits: Limits) -> None:
        super().check_sizes(data, limits)
        check_message_sizes(data.get("messages"), limits)
        check_tool_sizes(data, limits)

    def check(self, limits: Limits) -> None:
        super().check(limits)
        at_most(self.top_logprobs, limits, "max_logprobs", "top_logprobs")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                "'top_logprobs' is only allowed where 'logprobs' is true.", param="top_logprobs", code="invalid_value"
            )
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise InvalidRequest(
                "'max_tokens' and 'max_completion_tokens' differ. Set one of them.",
                param="max_tokens",
                code="invalid_value",
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "'add_generation_prompt' and 'continue_final_message' exclude each other.",
                param="continue_final_message",
                code="invalid_value",
            )
        check_messages(self.messages, limits)
        check_tools(self.tools or [], self.tool_choice, limits)
