"""Settings of ``penstock serve``: one table, read from the command line, the environment and a YAML file.

Precedence: command line, then ``PENSTOCK_*`` variables, then the file named by ``--config``, then the default.
The flags of ``serve`` and ``docs/cli.md`` are generated from the fields below, so a setting is added here alone.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from engine.config import Device, DType, EngineConfig, LoadFormat, TPReduce
from engine.quantization import quantization_names
from gateway.completion.formats import AUTO, NONE, reasoning_formats, tool_formats
from gateway.replicas.router import Routing
from observability.logging import LogFormat, LogLevel

ENV_PREFIX = "PENSTOCK_"
GROUPS = ("Model", "Server", "Engine", "Limits", "Access", "Logging")

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class SettingsError(Exception):
    """Settings that cannot be used; one readable line for each mistake."""

    def __init__(self, mistakes: Iterable[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


@dataclass(frozen=True, slots=True)
class Option:
    """How a field is shown: its panel in ``--help``, what its value is called, and its default in words."""

    group: str
    metavar: str = ""
    default: str = ""
    """Where the value of the default says too little, as ``None`` does."""
    short: str = ""
    """Another flag for it."""


def parse_size(value: object) -> object:
    """``"2GiB"``, ``"512MB"`` or ``1048576`` → bytes. Binary units with an ``i``, decimal ones without."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("must be a size in bytes, such as 2GiB, 512MiB or 1073741824")
    number, power, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** _POWERS[power.upper()])


def _split(value: object) -> object:
    """A comma-separated string (from the environment), one string or a list → a list."""
    if isinstance(value, str):
        return [part for part in (piece.strip() for piece in value.split(",")) if part]
    return value


Bytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Strings = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Count = Annotated[int, Field(ge=1)]


class ServeSettings(BaseSettings):
    """Everything ``penstock serve`` can be told. Immutable; made by :meth:`load`, or directly in tests."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, frozen=True, extra="forbid", protected_namespaces=()
    )

    # --- Model ---
    model: Annotated[str | None, Option("Model", "MODEL", "the embedded demo model")] = Field(
        None, description="Hugging Face id or local folder."
    )
    revision: Annotated[str | None, Option("Model", "NAME", "the main branch")] = Field(
        None, description="Branch, tag or commit of a Hugging Face model."
    )
    served_model_name: Annotated[Strings, Option("Model", "NAME", "MODEL as given")] = Field(
        (), description="Name that clients use; repeatable, the first one is shown in answers."
    )
    dtype: Annotated[DType, Option("Model")] = Field(
        "auto", description="Type of weights and activations; auto keeps the checkpoint's."
    )
    quantization: Annotated[str, Option("Model", "NAME")] = Field(
        "none", description="Narrower weights, made while loading, on a CPU: none, int8 or int4."
    )
    load_format: Annotated[LoadFormat, Option("Model")] = Field(
        "auto", description="Where weights come from; dummy makes random ones, to measure speed without a download."
    )
    max_model_len: Annotated[
        Count | None, Option("Model", "TOKENS", "the model's own, cut to what the cache holds")
    ] = Field(None, description="Longest context: prompt and output together.")
    chat_template: Annotated[Path | None, Option("Model", "FILE", "the model's own")] = Field(
        None, description="Jinja file that turns messages into a prompt."
    )

    tool_call_format: Annotated[str, Option("Model", "NAME")] = Field(
        "auto",
        description="How the model writes tool calls: a format of docs/tools.md, none, or what its template teaches.",
    )
    reasoning_format: Annotated[str, Option("Model", "NAME")] = Field(
        "auto", description="How it sets reasoning apart: a format of docs/tools.md, none, or what its template shows."
    )

    # --- Server ---
    host: Annotated[str, Option("Server", "HOST")] = Field(
        "127.0.0.1", min_length=1, description="Address to listen on; 0.0.0.0 for every network interface."
    )
    port: Annotated[int, Option("Server", "PORT")] = Field(
        8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    cors_origins: Annotated[Strings, Option("Server", "ORIGIN", "none")] = Field(
        (), description="Origin whose web pages may call the API; repeatable, * for all."
    )
    drain_timeout: Annotated[float, Option("Server", "SECONDS")] = Field(
        30.0, ge=0, description="How long running requests may go on when the server is told to stop."
    )
    control: Annotated[Path | None, Option("Server", "PATH", "by the port, in a folder of the user's")] = Field(
        None, description="Unix socket by which penstock upgrade reaches the server."
    )
    journal: Annotated[Path | None, Option("Server", "FILE", "none")] = Field(
        None, description="SQLite file, made where there is none, by which streams outlive this process; see resume.md."
    )
    resume_grace: Annotated[float, Option("Server", "SECONDS")] = Field(
        60.0, ge=0, description="How long a stream that may be resumed waits for its reader, and its answer is kept."
    )
    resume_buffer: Annotated[Bytes, Option("Server", "SIZE")] = Field(
        256 * 2**20, description="Memory for such answers that are complete and unread; the oldest gives way."
    )
    config: Annotated[Path | None, Option("Server", "FILE", "none")] = Field(
        None, description="YAML file with any of these settings, under the same names."
    )

    # --- Engine ---
    device: Annotated[Device, Option("Engine")] = Field(
        "auto", description="Where the model runs; auto takes a GPU where there is one."
    )
    replicas: Annotated[Count, Option("Engine", "COUNT")] = Field(
        1, description="Engines that serve the model, each a process with weights and a KV cache of its own."
    )
    standby: Annotated[bool, Option("Engine")] = Field(
        False, description="A second process of each engine that has loaded its weights and waits for the first to die."
    )
    routing: Annotated[Routing, Option("Engine")] = Field(
        "prefix",
        description="Which replica gets a request: where its beginning is cached, or any at random, for comparison.",
    )
    executor: Annotated[str, Option("Engine", "NAME")] = Field(
        "auto", pattern=r"^[a-z][a-z0-9_]*$", description="How ranks are run: a module of engine.executor."
    )
    tensor_parallel_size: Annotated[Count, Option("Engine", "COUNT", short="-tp")] = Field(
        1, description="Ranks, a process each, that share every matrix of the model."
    )
    pipeline_parallel_size: Annotated[Count, Option("Engine", "COUNT", short="-pp")] = Field(
        1, description="Stages that share the layers of the model, each of --tensor-parallel-size ranks."
    )
    tp_reduce: Annotated[TPReduce, Option("Engine")] = Field(
        "gather",
        description="What ranks share: gather keeps the answers of a single rank, allreduce says less and rounds anew.",
    )
    block_size: Annotated[Count, Option("Engine", "TOKENS")] = Field(
        16, description="Tokens in one block of the KV cache."
    )
    kv_cache_memory: Annotated[Bytes | None, Option("Engine", "SIZE", "from free memory")] = Field(
        None, description="Memory for the KV cache of each replica, in bytes or as 2GiB."
    )
    gpu_memory_utilization: Annotated[float, Option("Engine", "SHARE")] = Field(
        0.9, gt=0, le=1, description="Share of a GPU's memory for weights and cache together."
    )
    max_num_batched_tokens: Annotated[Count, Option("Engine", "TOKENS")] = Field(
        512, description="Tokens computed in one step, prompt and decode together."
    )
    max_num_mixed_prefill_tokens: Annotated[
        Count | None, Option("Engine", "TOKENS", "on a CPU 32, two a stream, or what takes 50 ms")
    ] = Field(None, description="Of these, prompt tokens beside running streams; fewer make streams more even.")
    max_num_seqs: Annotated[Count, Option("Engine", "COUNT")] = Field(128, description="Sequences in one step.")
    enable_prefix_caching: Annotated[bool, Option("Engine")] = Field(
        True, description="Compute a prompt's beginning once and share it among requests."
    )
    deterministic: Annotated[bool, Option("Engine")] = Field(
        False, description="Take a GPU's kernels whose answers do not depend on other requests, or refuse to start."
    )
    stream_interval: Annotated[float, Option("Engine", "SECONDS")] = Field(
        0.02, ge=0, le=1, description="Tokens of a stream that come within this time share an event; 0 for one each."
    )
    engine_lease: Annotated[float, Option("Engine", "SECONDS")] = Field(
        300.0, ge=5, description="How long an engine goes on without a sign of life from a gateway that is not dead."
    )
    seed: Annotated[int, Option("Engine", "SEED")] = Field(
        0, ge=0, lt=2**63, description="Seed of dummy weights (a request has its own seed)."
    )
    num_threads: Annotated[Count | None, Option("Engine", "COUNT", "the cores, shared out among replicas")] = Field(
        None, description="Threads of each replica on a CPU, shared out among its ranks."
    )

    # --- Limits ---
    max_queue_requests: Annotated[Count, Option("Limits", "COUNT")] = Field(
        256, description="Requests that may wait for the engine; more are answered 429."
    )
    max_queue_tokens: Annotated[Count, Option("Limits", "TOKENS")] = Field(
        262_144, description="Prompt tokens that may wait for the engine; more are answered 429."
    )
    max_body_size: Annotated[Bytes, Option("Limits", "SIZE")] = Field(
        8 * 2**20, description="Largest request body, in bytes or as 8MiB."
    )
    max_n: Annotated[Count, Option("Limits", "COUNT")] = Field(16, description="Largest n: choices for one prompt.")
    max_prompts: Annotated[Count, Option("Limits", "COUNT")] = Field(
        64, description="Prompts in one request to /v1/completions."
    )
    max_logprobs: Annotated[int, Option("Limits", "COUNT")] = Field(
        20, ge=0, description="Largest number of likeliest tokens reported at a position."
    )
    max_stop: Annotated[int, Option("Limits", "COUNT")] = Field(
        16, ge=0, description="Stop strings in a request, and stop token ids."
    )
    max_logit_bias: Annotated[int, Option("Limits", "COUNT")] = Field(
        1024, ge=0, description="Entries of logit_bias in a request, of allowed_token_ids, and of bad_words."
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
    max_grammar_states: Annotated[int, Option("Limits", "COUNT")] = Field(
        50_000, ge=1000, description="States of one grammar's lexer, which take some 2 kB each; more end the answer."
    )
    grammar_timeout: Annotated[float, Option("Limits", "SECONDS")] = Field(
        5.0, gt=0, description="How long one grammar may take to compile."
    )
    max_tools: Annotated[int, Option("Limits", "COUNT")] = Field(128, ge=0, description="Tools in a request.")
    max_tool_schema: Annotated[Bytes, Option("Limits", "SIZE")] = Field(
        65_536, description="Largest schema of a tool's parameters, in bytes of JSON or as 64KiB."
    )
    unknown_fields: Annotated[Literal["refuse", "warn", "ignore"], Option("Limits")] = Field(
        "refuse", description="What becomes of a request with a field that is not known."
    )

    # --- Access ---
    api_key: Annotated[Strings, Option("Access", "KEY", "none, open to all")] = Field(
        (), repr=False, description="Key that clients must send; repeatable. Better in PENSTOCK_API_KEY than in a flag."
    )
    api_keys: Annotated[Path | None, Option("Access", "FILE", "none")] = Field(
        None, description="YAML file of named, hashed keys with their limits; see penstock hash-key."
    )

    admin_key: Annotated[Strings, Option("Access", "KEY", "none, no admin routes")] = Field(
        (), repr=False, description="Key for the routes under /admin; repeatable. Better in PENSTOCK_ADMIN_KEY."
    )

    # --- Logging ---
    log_level: Annotated[LogLevel, Option("Logging")] = Field("info", description="Least important lines to write.")
    log_format: Annotated[LogFormat, Option("Logging")] = Field(
        "text", description="json writes one object a line. Prompts and keys are never logged."
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_booleans_for_numbers(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError(f"must not be {str(value).lower()}")
        return value

    @field_validator("port", mode="before")
    @classmethod
    def _not_a_service_link(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                "holds an address that Kubernetes made for a Service of that name; set enableServiceLinks: false"
            )
        return value

    @field_validator("quantization")
    @classmethod
    def _is_a_quantization(cls, value: str) -> str:
        if value not in quantization_names():
            raise ValueError(f"must be one of {', '.join(quantization_names())}, not {value!r}")
        return value

    @field_validator("tool_call_format", "reasoning_format")
    @classmethod
    def _is_a_format(cls, value: str, info: ValidationInfo) -> str:
        formats = tool_formats() if info.field_name == "tool_call_format" else reasoning_formats()
        if value not in (known := (AUTO, NONE, *formats)):
            raise ValueError(f"must be one of {', '.join(known)}, not {value!r}")
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
