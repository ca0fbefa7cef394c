"""Which request fields are known and not supported, and at which value each of them is accepted all the same.

A field that is a member of a request schema (``chat.py``, ``completions.py``, ``common.py``) is honoured. A field
listed here is accepted at its no-op value, where leaving it out would mean the same, and is otherwise refused by name
with the reason. ``null`` always counts as left out. Any other field is not known.

The tables cover OpenAI's current schemas in full (a test reads them from the ``openai`` package) and the extensions
that other servers' users send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

Json = Any


@dataclass(frozen=True, slots=True)
class NoOp:
    """A known field that is not supported."""

    why: str
    """Completes the sentence "… is not supported: "."""
    values: tuple[Json, ...] = ()
    """JSON values at which the field changes nothing, beside null."""
    anything: bool = False
    """Whether it changes nothing at any value, because another field says the same."""

    def accepts(self, value: Json) -> bool:
        return value is None or self.anything or any(same(value, allowed) for allowed in self.values)

    @property
    def accepted(self) -> str:
        """Those values and null, for people to read."""
        if self.anything:
            return "anything"
        return " or ".join(["null", *(msgspec.json.encode(value).decode() for value in self.values)])


def same(left: Json, right: Json) -> bool:
    """Equality of JSON values: unlike Python's, ``true`` is not 1; like it, 0 and 0.0 are one number."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


_FUNCTIONS = "functions were superseded; use tools and tool_choice"
_STRUCTURED = "it was superseded; use structured_outputs"
_AUDIO = "this server generates text only"
_STORED = "completions are not stored"
_SEARCH = "sampling is the only search method"
_TEMPLATE = "the chat template is the operator's choice"

_SHARED: Mapping[str, NoOp] = {
    "early_stopping": NoOp(_SEARCH, (False,)),
    "grammar": NoOp(_STRUCTURED, ("",)),
    "guided_choice": NoOp(_STRUCTURED),
    "guided_decoding_backend": NoOp(_STRUCTURED),
    "guided_grammar": NoOp(_STRUCTURED),
    "guided_json": NoOp(_STRUCTURED),
    "guided_regex": NoOp(_STRUCTURED),
    "guided_whitespace_pattern": NoOp(_STRUCTURED),
    "kv_transfer_params": NoOp("prefill and decode run in one place"),
    "length_penalty": NoOp(_SEARCH, (1.0,)),
    "priority": NoOp("prompts are taken as they come, and nobody gets ahead of others", (0,)),
    "return_tokens_as_token_ids": NoOp("use return_token_ids instead", (False,)),
    "spaces_between_special_tokens": NoOp("special tokens are joined as the tokenizer joins them", (True,)),
    "use_beam_search": NoOp(_SEARCH, (False,)),
}

CHAT: Mapping[str, NoOp] = {
    **_SHARED,
    "add_special_tokens": NoOp("the chat template writes the special tokens", (False,)),
    "audio": NoOp(_AUDIO),
    "best_of": NoOp("only /v1/completions chooses among answers; use n with logprobs", (1,)),
    "chat_template": NoOp(f"{_TEMPLATE} and never a caller's"),
    "documents": NoOp("put documents into the messages", ([],)),
    "function_call": NoOp(_FUNCTIONS, ("none", "auto")),
    "functions": NoOp(_FUNCTIONS, ([],)),
    "mm_processor_kwargs": NoOp("this server reads text only", ({},)),
    "modalities": NoOp(_AUDIO, (["text"],)),
    "moderation": NoOp("there is no moderation model"),
    "prediction": NoOp("predicted outputs are not used yet"),
    "prompt_cache_options": NoOp("the prefix cache is automatic", ({}, {"mode": "implicit"})),
    "prompt_cache_retention": NoOp("the prefix cache is held in memory alone", ("in_memory",)),
    "service_tier": NoOp("there is one tier", ("auto", "default")),
    "store": NoOp(_STORED, (False,)),
    "verbosity": NoOp("ask for a length in the messages", ("medium",)),
    "web_search_options": NoOp("this server reaches no other"),
}

COMPLETION: Mapping[str, NoOp] = {
    **_SHARED,
    "prompt_embeds": NoOp("a prompt is text or token ids"),
    "service_tier": NoOp("there is one tier", ("auto", "default")),
    "store": NoOp(_STORED, (False,)),
}

STREAM_OPTIONS: Mapping[str, NoOp] = {
    "include_obfuscation": NoOp("chunks are not padded", (False,)),
}

_FUNCTION_CALL = NoOp("functions were superseded; use tool_calls")

ASSISTANT_MESSAGE: Mapping[str, NoOp] = {
    "annotations": NoOp("this server reaches no other, so answers cite nothing", ([],)),
    "audio": NoOp(_AUDIO),
    "function_call": _FUNCTION_CALL,
    "parsed": NoOp("it is the openai client's own reading of the content, which counts", anything=True),
    "provider_specific_fields": NoOp("it is litellm's own note of what the other fields say", anything=True),
    "refusal": NoOp("a refusal is ordinary text here; send it as content", ("",)),
}

CONTENT_PART: Mapping[str, NoOp] = {
    "prompt_cache_breakpoint": NoOp("the prefix cache is automatic"),
}

CALLED_FUNCTION: Mapping[str, NoOp] = {
    "parsed_arguments": NoOp("it is the openai client's own reading of the arguments, which count", anything=True),
}

TOOL_CALL: Mapping[str, NoOp] = {
    "custom": NoOp("only function tools are known"),
}

TOOL: Mapping[str, NoOp] = {
    "custom": NoOp("only function tools are known"),
}
