"""``config.json`` of a Hugging Face checkpoint, read field by field; transformers is not imported.

A field that changes the mathematics and is not supported stops the start with its name. Fields that no supported
architecture reads, transformers' own implementation included, are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from engine.errors import ModelError

T = TypeVar("T", int, float, bool, str)

NO_OP_VALUES: Mapping[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "quantization_config": (None,),
    "partial_rotary_factor": (None, 1.0),
    "position_embedding_type": (None, "rope", "rotary"),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "query_pre_attn_scalar": (None,),
    "embedding_multiplier": (None, 1.0),
    "attention_multiplier": (None,),
    "residual_multiplier": (None, 1.0),
    "logits_scaling": (None, 1.0),
    "logit_scale": (None, 1.0),
    "scale_emb": (None, 1),
    "clip_qkv": (None,),
    "attention_chunk_size": (None,),
    "no_rope_layers": (None, []),
    "num_local_experts": (None, 0),
    "num_experts": (None, 0),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
}
"""Fields that change the mathematics of a decoder, and the values at which they do not."""


class HFConfig:
    """Typed reads of one ``config.json``. A value of the wrong type raises ModelError, naming the field."""

    def __init__(self, fields: Mapping[str, Any], source: str) -> None:
        self._fields, self.source = dict(fields), source

    @classmethod
    def read(cls, folder: Path) -> HFConfig:
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds no config.json: it is not a Hugging Face model folder")
        return cls.read_json(folder / "config.json")

    @classmethod
    def read_json(cls, path: Path) -> HFConfig:
        """Any JSON object of a model folder."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error
        if not isinstance(fields, dict):
            raise ModelError(f"{path} is not a JSON object")
        return cls(fields, str(path))

    def section(self, name: str) -> HFConfig | None:
        """A nested object, None where it is missing or null."""
        value = self._fields.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, f"must be an object, not {value!r}")
        return HFConfig(value, f"{self.source}: {name}")

    def get(self, name: str, kind: type[T]) -> T | None:
        """None where the field is missing or null."""
        value = self._fields.get(name)
        if value is None:
            return None
        if kind is float and type(value) is int:
            return kind(value)
        if type(value) is not kind:
            raise self.error(name, f"must be of type {kind.__name__}, not {value!r}")
        return value

    def require(self, name: str, kind: type[T]) -> T:
        value = self.get(name, kind)
        if value is None:
            raise self.error(name, "is missing")
        return value

    def default(self, name: str, default: T) -> T:
        """The field, or where it is missing or null the value that transformers' configuration class has for it."""
        value = self.get(name, type(default))
        return default if value is None else value

    def optional(self, name: str, missing: T) -> T | None:
        """None where the field is null, ``missing`` where there is none: for fields that null switches off."""
        return self.get(name, type(missing)) if name in self._fields else missing

    def size(self, name: str, default: int | None = None) -> int:
        """An integer of at least 1."""
        value = self.require(name, int) if default is None else self.default(name, default)
        if value < 1:
            raise self.error(name, f"must be at least 1, not {value}")
        return value

    def strings(self, name: str) -> list[str]:
        """Empty where the field is missing or null."""
        value = self._fields.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(name, f"must be a list of strings, not {value!r}")
        return value

    def token_ids(self, name: str) -> list[int]:
        """A field that holds one id, several or none."""
        value = self._fields.get(name)
        ids = [] if value is None else value if isinstance(value, list) else [value]
        if not all(type(item) is int for item in ids):
            raise self.error(name, f"must be a token id or a list of them, not {value!r}")
        return ids

    def names(self) -> set[str]:
        """Of the fields that are not null."""
        return {name for name, value in self._fields.items() if value is not None}

    def canonical(self) -> str:
        """The fields as text, equal where they are."""
        return json.dumps(self._fields, sort_keys=True)

    def refuse_unsupported(self) -> None:
        """ModelError where a field asks for mathematics that no model here has."""
        for name, allowed in NO_OP_VALUES.items():
            if name in self._fields and self._fields[name] not in allowed:
                raise self.error(name, f"is {_brief(self._fields[name])}, which is not supported")

    def error(self, name: str, problem: str) -> ModelError:
        return ModelError(f"{self.source}: {name} {problem}")


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
