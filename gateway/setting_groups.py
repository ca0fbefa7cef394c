"""The table of settings, in the groups that ``--help`` shows; ``settings`` reads it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from engine.config import Device, DType, KVCacheDType, LoadFormat, Overlap, TPReduce
from engine.quantization import quantization_names
from gateway.completion.formats import AUTO, NONE, reasoning_formats, tool_formats
from gateway.replicas.router import Routing
from observability.logging import LogFormat, LogLevel
from observability.metrics_compat import MetricsCompat

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


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


def _without_variant(value: object) -> object:
    """``fp8_e4m3``, as other servers call it, is the one fp8 there is."""
    return "fp8" if value == "fp8_e4m3" else value


Bytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]
Strings = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Count = Annotated[int, Field(ge=1)]


class ModelSettings(BaseModel):
    """What is served."""

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
        "none", description="Narrower weights, made while loading: none, int8 or int4."
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


class ServerSettings(BaseModel):
    """Where it listens, how it stops, and what outlives it."""

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

    @field_validator("port", mode="before")
    @classmethod
    def _not_a_service_link(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                "holds an address that Kubernetes made for a Service of that name; set enableServiceLinks: false"
            )
        return value


class EngineSettings(BaseModel):
    """How the model runs."""

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
    kv_cache_dtype: Annotated[KVCacheDType, BeforeValidator(_without_variant), Option("Engine")] = Field(
        "auto",
        description="Type of what the KV cache holds: auto as --dtype; fp8 (e4m3) and int8 hold twice what 16 bits do.",
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
    cuda_graphs: Annotated[bool, Option("Engine")] = Field(
        True, description="On a GPU, launch a step of decoding as a whole rather than kernel by kernel."
    )
    overlap: Annotated[Overlap, Option("Engine")] = Field(
        "auto",
        description="Begin a step before the tokens of the one before it have been read; auto does so on a GPU.",
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


class AccessSettings(BaseModel):
    """Who may come in."""

    api_key: Annotated[Strings, Option("Access", "KEY", "none, open to all")] = Field(
        (), repr=False, description="Key that clients must send; repeatable. Better in PENSTOCK_API_KEY than in a flag."
    )
    api_keys: Annotated[Path | None, Option("Access", "FILE", "none")] = Field(
        None, description="YAML file of named, hashed keys with their limits; see penstock hash-key."
    )
    admin_key: Annotated[Strings, Option("Access", "KEY", "none, no admin routes")] = Field(
        (), repr=False, description="Key for the routes under /admin; repeatable. Better in PENSTOCK_ADMIN_KEY."
    )


class LoggingSettings(BaseModel):
    """What is written of it."""

    log_level: Annotated[LogLevel, Option("Logging")] = Field("info", description="Least important lines to write.")
    log_format: Annotated[LogFormat, Option("Logging")] = Field(
        "text", description="json writes one object a line. Prompts and keys are never logged."
    )


class ObservabilitySettings(BaseModel):
    """What is told of it to other programs."""

    metrics_compat: Annotated[MetricsCompat, Option("Observability")] = Field(
        "none", description="Whose names of metrics are served beside Penstock's: vllm, for dashboards made for it."
    )
    otlp_endpoint: Annotated[str | None, Option("Observability", "URL", "none, nothing is traced")] = Field(
        None, description="OpenTelemetry collector that takes traces over HTTP, such as http://localhost:4318."
    )
    trace_content: Annotated[bool, Option("Observability")] = Field(
        False, description="Put prompts and answers into traces."
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must be an address such as http://localhost:4318")
        return value
