"""The part of the table of settings that bounds what requests may ask for; ``settings`` reads it.

What bounds a single request before anything is made of it has its twin in ``gateway.protocol.limits``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from gateway.setting_groups import Bytes, Count, Option


class LimitSettings(BaseModel):
    """What one request, and all of them together, may ask for."""

    max_queue_requests: Annotated[Count, Option("Limits", "COUNT")] = Field(
        256, description="Requests that may wait for the engine; more are answered 429."
    )
    max_queue_tokens: Annotated[Count, Option("Limits", "TOKENS")] = Field(
        262_144, description="Prompt tokens that may wait for the engine; more are answered 429."
    )
    max_body_size: Annotated[Bytes, Option("Limits", "SIZE")] = Field(
        8 * 2**20, description="Largest request body, in bytes or as 8MiB."
    )
    max_json_depth: Annotated[int, Option("Limits", "LEVELS")] = Field(
        64, ge=8, le=128, description="How deeply the JSON of a body, or of a tool call's arguments, may be nested."
    )
    max_json_parts: Annotated[Count, Option("Limits", "COUNT")] = Field(
        100_000, description="Arrays, objects and members in the JSON of a body, or of a tool call's arguments."
    )
    max_messages: Annotated[Count, Option("Limits", "COUNT")] = Field(16_384, description="Messages in a conversation.")
    max_message_items: Annotated[Count, Option("Limits", "COUNT")] = Field(
        1024, description="Parts of the content of one message, and tool calls in it."
    )
    max_name_length: Annotated[Count, Option("Limits", "CHARACTERS")] = Field(
        256, description="Longest name of a participant or of a called function in a message, and id of a call."
    )
    max_label_length: Annotated[Count, Option("Limits", "CHARACTERS")] = Field(
        512, description="Longest user, safety_identifier, session_id, cache_salt, and value in metadata."
    )
    max_metadata: Annotated[int, Option("Limits", "COUNT")] = Field(16, ge=0, description="Pairs in metadata.")
    max_metadata_name_length: Annotated[Count, Option("Limits", "CHARACTERS")] = Field(
        64, description="Longest name in metadata."
    )
    max_generation_tokens: Annotated[Count, Option("Limits", "TOKENS")] = Field(
        256, description="Largest max_tokens of a request to /generation."
    )
    max_tokenize_length: Annotated[Count, Option("Limits", "CHARACTERS")] = Field(
        2**20, description="Longest text, or prompt of messages, that is tokenized without being generated from."
    )
    template_timeout: Annotated[float, Option("Limits", "SECONDS")] = Field(
        2.0, gt=0, description="How long the chat template may take for one conversation."
    )
    max_rendered_length: Annotated[Count, Option("Limits", "CHARACTERS")] = Field(
        2**25, description="Longest prompt that the chat template may make of a conversation."
    )
    max_n: Annotated[Count, Option("Limits", "COUNT")] = Field(16, description="Largest n: choices for one prompt.")
    max_prompts: Annotated[Count, Option("Limits", "COUNT")] = Field(
        64, description="Prompts in one request to /v1/completions."
    )
    max_sequences: Annotated[Count, Option("Limits", "COUNT")] = Field(
        256, description="Choices of all prompts of one request together."
    )
    max_resume_choices: Annotated[Count, Option("Limits", "COUNT")] = Field(
        64, description="The same of a stream that may be resumed: the id of each of its events has a part for each."
    )
    max_logprobs: Annotated[int, Option("Limits", "COUNT")] = Field(
        20, ge=0, description="Largest number of likeliest tokens reported at a position."
    )
    max_stop: Annotated[int, Option("Limits", "COUNT")] = Field(
        16, ge=0, description="Stop strings in a request, and stop token ids."
    )
    max_stop_length: Annotated[Count, Option("Limits", "CHARACTERS")] = Field(
        256, description="Longest stop string, each of which is searched for in all text; also of a bad word."
    )
    max_logit_bias: Annotated[int, Option("Limits", "COUNT")] = Field(
        1024, ge=0, description="Entries of logit_bias in a request, of allowed_token_ids, and of bad_words."
    )
    max_tool_grammar: Annotated[Count, Option("Limits", "CHARACTERS")] = Field(
        524_288, description="Longest grammar of the calls of all tools together, where calls are enforced."
    )
    max_grammar_size: Annotated[Count, Option("Limits", "CHARACTERS")] = Field(
        65_536, description="Longest schema, regular expression or grammar of a request."
    )
    max_schema_depth: Annotated[int, Option("Limits", "LEVELS")] = Field(
        24, ge=1, le=28, description="How deeply a JSON Schema may be nested."
    )
    max_choices: Annotated[Count, Option("Limits", "COUNT")] = Field(
        1024, description="Strings in structured_outputs.choice."
    )
    max_structures: Annotated[Count, Option("Limits", "COUNT")] = Field(
        128, description="Structures of a structural tag, triggers, and formats of a tree."
    )
    max_grammar_states: Annotated[int, Option("Limits", "COUNT")] = Field(
        50_000, ge=1000, description="States of one grammar's lexer, which take some 2 kB each; more end the answer."
    )
    grammar_timeout: Annotated[float, Option("Limits", "SECONDS")] = Field(
        5.0, gt=0, description="How long one grammar may take to compile."
    )
    grammar_memory: Annotated[Bytes, Option("Limits", "SIZE")] = Field(
        2**30, description="Memory that compiling one grammar may take, in bytes or as 1GiB."
    )
    max_queue_grammars: Annotated[Count, Option("Limits", "COUNT")] = Field(
        64, description="Grammars that may wait to be compiled, in turns by key; more are answered 429."
    )
    max_tools: Annotated[int, Option("Limits", "COUNT")] = Field(128, ge=0, description="Tools in a request.")
    max_tool_schema: Annotated[Bytes, Option("Limits", "SIZE")] = Field(
        65_536, description="Largest schema of a tool's parameters, in bytes of JSON or as 64KiB."
    )
    unknown_fields: Annotated[Literal["refuse", "warn", "ignore"], Option("Limits")] = Field(
        "refuse", description="What becomes of a request with a field that is not known."
    )
