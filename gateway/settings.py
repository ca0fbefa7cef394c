"""Settings of ``penstock serve``, read from the command line, the environment and a YAML file.

Precedence: command line, then ``PENSTOCK_*`` variables, then the file named by ``--config``, then the default.
The flags of ``serve`` and ``docs/cli.md`` are generated from the fields in ``setting_groups`` and ``limit_settings``: a
setting is added there alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from engine.config import EngineConfig
from gateway.limit_settings import LimitSettings
from gateway.setting_groups import (
    AccessSettings,
    EngineSettings,
    LoggingSettings,
    ModelSettings,
    ObservabilitySettings,
    Option,
    ServerSettings,
)

ENV_PREFIX = "PENSTOCK_"
GROUPS = ("Model", "Server", "Engine", "Limits", "Access", "Logging", "Observability")


class SettingsError(Exception):
    """Settings that cannot be used; one readable line for each mistake."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class ServeSettings(
    ModelSettings,
    ServerSettings,
    EngineSettings,
    LimitSettings,
    AccessSettings,
    LoggingSettings,
    ObservabilitySettings,
    BaseSettings,
):
    """Everything ``penstock serve`` can be told. Immutable; made by :meth:`load`, or directly in tests."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans_for_numbers(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"must not be {str(value).lower()}")
        return value

    @field_validator("config", "chat_template", "api_keys")
    @classmethod
    def _is_a_file(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_file():
            raise ValueError(f"names no file: {value}")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order is the precedence. Neither ``.env`` files nor secret folders are read."""
        path = init_settings().get("config") or env_settings().get("config")
        from_file = InitSettingsSource(settings_cls, read_yaml(Path(path)) if path else {})
        return init_settings, env_settings, from_file

    @classmethod
    def load(cls, flags: Mapping[str, Any], environ: Mapping[str, str]) -> Self:
        """Read all sources. ``flags`` holds only what stood on the command line; ``environ`` is for messages.

        Raises:
            SettingsError: with every mistake found, each naming the flag, variable or file it came from.
        """
        try:
            return cls(**flags)
        except ValidationError as error:
            raise SettingsError(_explain(details, flags, environ) for details in error.errors()) from error

    def engine_configs(self, model_folder: Path) -> list[EngineConfig]:
        """The part that each replica's engine is told; ``model_folder`` is where the model lies by now."""
        shared = {name: getattr(self, name) for name in EngineConfig.__struct_fields__ if hasattr(self, name)}
        shared["model"] = str(model_folder)
        shared["cache_events"] = self.replicas > 1 and self.routing == "prefix"
        return [EngineConfig(**shared, replica=replica) for replica in range(self.replicas)]


def flag_of(name: str) -> str:
    """``max_model_len`` → ``--max-model-len``."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """``max_model_len`` → ``PENSTOCK_MAX_MODEL_LEN``."""
    return ENV_PREFIX + name.upper()


def names_of_group() -> dict[str, list[str]]:
    """Group → names of its fields, in the order in which people look for them."""
    return {group: [name for name in ServeSettings.model_fields if option_of(name).group == group] for group in GROUPS}


def option_of(name: str) -> Option:
    """How the field ``name`` is shown."""
    return next(item for item in ServeSettings.model_fields[name].metadata if isinstance(item, Option))


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping of settings; names may be written as flags (``max-model-len``) or as fields (``max_model_len``).

    Raises:
        SettingsError: the file cannot be read, is no YAML or no mapping, or a name in it is not known.
    """
    import yaml  # here, so that --help does not wait for it

    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"{path}: {error.strerror or error}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SettingsError([f"{path}: must hold a mapping of settings, such as 'port: 8000'"])
    values = {str(key).replace("-", "_"): value for key, value in loaded.items()}
    known = [name for name in ServeSettings.model_fields if name != "config"]
    unknown = [name for name in values if name not in known]
    if unknown:
        raise SettingsError(f"{path}: {name} is not a setting{_suggest(name, known)}" for name in unknown)
    return values


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A warning for each ``PENSTOCK_*`` variable that names no setting."""
    known = [variable_of(name) for name in ServeSettings.model_fields]
    strangers = sorted(name for name in environ if name.startswith(ENV_PREFIX) and name not in known)
    return [f"{name} is set but is not a setting{_suggest(name, known)}" for name in strangers]


def _suggest(name: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _explain(details: Any, flags: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """One line for one of pydantic's errors: where the value came from, what it should be, what it is."""
    name = str(details["loc"][0])
    if name not in ServeSettings.model_fields:
        return f"{flag_of(name)} is not a setting{_suggest(name, ServeSettings.model_fields)}"
    if name in flags:
        source = "MODEL" if name == "model" else flag_of(name)
    elif variable_of(name) in environ:
        source = variable_of(name)
    else:
        path = flags.get("config") or environ.get(variable_of("config"))
        source = f"{name} in {path}"
    given = "" if details["type"] == "value_error" or name.endswith("_key") else f", not {details['input']!r}"
    return f"{source} {_requirement(details)}{given}"


def _requirement(details: Any) -> str:
    limits = details.get("ctx", {})
    match details["type"]:
        case "greater_than_equal":
            return f"must be at least {limits['ge']}"
        case "greater_than":
            return f"must be more than {limits['gt']:g}"
        case "less_than_equal":
            return f"must be at most {limits['le']}"
        case "less_than":
            return f"must be less than {limits['lt']}"
        case "int_parsing" | "int_type" | "int_from_float":
            return "must be a whole number"
        case "float_parsing" | "float_type":
            return "must be a number"
        case "bool_parsing" | "bool_type":
            return "must be true or false"
        case "literal_error":
            return f"must be one of {limits['expected']}"
        case "value_error":
            return str(limits["error"])
        case "string_type" | "path_type" | "string_too_short" | "string_pattern_mismatch":
            return "must be a name"
        case _:
            return str(details["msg"])
