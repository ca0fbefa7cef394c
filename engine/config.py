"""The frozen configuration of one engine, built by the gateway's settings and sent to the engine process."""

from __future__ import annotations

from typing import Literal

import msgspec

from observability.logging import LogFormat, LogLevel

DType = Literal["auto", "float32", "bfloat16", "float16"]
KVCacheDType = Literal["auto", "float32", "bfloat16", "float16", "fp8", "int8"]
LoadFormat = Literal["auto", "safetensors", "dummy"]
Device = Literal["auto", "cpu", "cuda"]
Overlap = Literal["auto", "on", "off"]
TPReduce = Literal["gather", "allreduce"]
"""How the ranks of a tensor group make one result of their parts, see ``engine.layers.linear.JoiningLinear``."""


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Never changed after it is made: what an engine derives (cache size, greatest length) it returns."""

    model: str
    """Local folder with ``config.json``, weights and tokenizer."""
    dtype: DType = "auto"
    """``auto`` keeps the checkpoint's."""
    quantization: str = "none"
    """Name of a module in ``engine.quantization``, or ``none``."""
    load_format: LoadFormat = "auto"
    device: Device = "auto"
    executor: str = "auto"
    """Name of a module in ``engine.executor``; ``auto`` takes ``multiproc`` where there are several ranks."""
    tensor_parallel_size: int = 1
    """Ranks that share every matrix."""
    pipeline_parallel_size: int = 1
    """Stages that share the layers, each of ``tensor_parallel_size`` ranks."""
    tp_reduce: TPReduce = "gather"
    max_model_len: int | None = None
    """Tokens of prompt and output together; None takes the model's own, cut to what the cache holds."""
    block_size: int = 16
    """Tokens in one KV-cache block."""
    kv_cache_memory: int | None = None
    """Bytes for the KV cache, shared evenly by the ranks; None sizes it from free memory."""
    kv_cache_dtype: KVCacheDType = "auto"
    """Of what it holds; ``auto`` takes that of the weights before they are quantized."""
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory that weights and cache may take together, where ``kv_cache_memory`` is None."""
    max_num_batched_tokens: int = 512
    """Token budget of a step."""
    max_num_mixed_prefill_tokens: int | None = None
    """Prompt tokens in a step that streams wait for; None takes 32 on a CPU and the whole budget elsewhere."""
    max_num_seqs: int = 128
    """Most sequences in a step."""
    enable_prefix_caching: bool = True
    cuda_graphs: bool = True
    """Whether a GPU decodes by graphs, captured when the first step of a size comes."""
    overlap: Overlap = "auto"
    """Whether a step begins before the tokens of the one before it are known to the host; ``auto`` on a GPU only."""
    deterministic: bool = False
    """Whether an answer may depend on nothing but its request: a GPU's kernels are chosen for it. A CPU's are so."""
    cache_events: bool = False
    """Whether the gateway is told what the prefix cache holds."""
    replica: int = 0
    """Which of the engines behind one gateway this is, from 0."""
    replicas: int = 1
    """How many there are; those on a CPU share its cores and memory in equal parts."""
    seed: int = 0
    """Of dummy weights. Requests without a seed of their own are given one by the gateway."""
    num_threads: int | None = None
    """Of torch on a CPU, all ranks together; None takes an equal part of the cores for each replica."""
    stream_interval: float = 0.02
    """Seconds in which the tokens of a choice are sent together; 0 sends each by itself."""
    engine_lease: float = 300.0
    """Seconds that the engine goes on without a sign of life from its gateway."""
    max_grammar_states: int = 50_000
    """Of one grammar's lexer: a bound on the memory of each constrained choice, some 2 kB for each."""
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"

    @property
    def ranks(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size
