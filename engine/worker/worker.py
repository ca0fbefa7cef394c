"""Worker: one rank's device, model and KV cache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from engine import loader
from engine.batch import ScheduledBatch, StepResult
from engine.config import EngineConfig
from engine.dummy_weights import dummy_weights
from engine.errors import ConfigurationError, ModelError
from engine.executor.base import ModelFacts
from engine.grammar import GrammarError
from engine.grammar_compiler import GrammarCompiler
from engine.layers.base import LayerContext
from engine.models import build_model
from engine.models.base import Model
from engine.models.hf_config import HFConfig
from engine.parallel import ALONE, Parallel
from engine.quantization import NONE, find_quantization
from engine.vocabulary import Vocabulary
from engine.worker.cuda_graphs import Capturing, CudaCapturing
from engine.worker.grammar_mask import GrammarMasks
from engine.worker.input_buffers import InputBuffers
from engine.worker.kv_cache import KVCache, block_bytes, choose_dtype
from engine.worker.machine import all_threads, available_memory
from engine.worker.model_runner import ModelRunner
from engine.worker.profiling import full_step
from engine.worker.sampler import Sampler
from engine.worker.transfers import transfers_of
from engine.worker.whole import Whole
from kernels.registry import REFERENCE, Kernels, Machine, NotInvariantError

logger = logging.getLogger(__name__)

CPU_CACHE_SHARE = 0.25
"""Of the memory that is free once the weights are loaded."""
LEAST_CACHE = 256
"""Tokens that a cache must hold to be worth starting with (or the longest context, if that is less)."""


class Worker:
    """Called from one thread: ``load``, ``cache_capacity``, ``allocate_cache``, then ``execute`` again and again."""

    def __init__(
        self, config: EngineConfig, progress: Callable[[str, int, int, str], None], parallel: Parallel = ALONE
    ) -> None:
        self._config, self._progress, self._parallel = config, progress, parallel
        self._device = choose_device(config, parallel.rank)
        self.overlaps = config.overlap == "on" or (config.overlap == "auto" and self._device.type == "cuda")
        """Whether steps are launched before those before them are waited for, as far as their tokens allow."""

    def load(self) -> ModelFacts:
        """Build the model, or this rank's part of it, and fill its weights. Raises ModelError or ConfigurationError."""
        config, device, memory = self._config, self._device, available_memory() // self._parallel.ranks
        threads = all_threads(config)
        self._take_device(threads)
        folder = Path(config.model)
        hf_config = HFConfig.read(folder)
        checkpoint = None if config.load_format == "dummy" else loader.Checkpoint(folder)
        self._dtype = loader.resolve_dtype(config.dtype, hf_config, checkpoint)
        # A CPU computes in float32 at the speed of its memory: weights and cache alone are worth being narrower.
        activations = torch.float32 if device.type == "cpu" else self._dtype
        self._cache_dtype = choose_dtype(config.kv_cache_dtype, self._dtype, activations)
        kernels = Kernels(Machine.detect(device, deterministic=config.deterministic))
        context = LayerContext(
            kernels=kernels,
            device=device,
            dtype=activations,
            weight_dtype=self._dtype,
            cache_dtype=self._cache_dtype,
            block_size=config.block_size,
            max_model_len=config.max_model_len,
            quantization=find_quantization(config.quantization, kernels),
            parallel=self._parallel,
        )
        with torch.inference_mode(), _readable_mistakes():
            self._model = build_model(hf_config, context)
            _check_length(config, self._model)
            whole = Whole.of(self._model, hf_config, context, threads)
            held, parameters = loader.parameters(self._model), loader.parameters(whole.model)
            self._check_memory(int(held * loader.BITS[context.weight_format("linear")] / 8), memory)
            if checkpoint is None:
                digest = dummy_weights(self._model, config.seed, self._progress)
            else:
                loader.check(whole.model, checkpoint)
                loader.load_weights(self._model, checkpoint, self._progress)
                digest = checkpoint.digest()
        weight_bytes = loader.held_bytes(self._model)
        self._tell_of_weights(held * self._dtype.itemsize, weight_bytes)
        eos_token_ids = loader.eos_token_ids(folder, hf_config)
        self._make_runner(kernels, activations, eos_token_ids)
        return ModelFacts(
            device=str(device) if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})",
            dtype=_name(self._dtype),
            parameters=parameters,
            weight_bytes=weight_bytes,
            max_model_len=self._model.max_model_len,
            vocab_size=self._model.vocab_size,
            eos_token_ids=eos_token_ids,
            fingerprint=whole.fingerprint(kernels, self._parallel, hf_config.canonical(), str(self._dtype), digest),
            kernels=whole.kernels.chosen,
            kernel_builds=whole.kernels.builds,
            block_bytes=self._block_bytes,
        )

    def cache_capacity(self) -> int:
        """Blocks of KV cache that there is memory for. Raises ConfigurationError where that is too few to serve."""
        config, longest = self._config, self._longest
        wanted = config.max_num_seqs * -(-longest // config.block_size)
        if config.kv_cache_memory is not None:
            memory = config.kv_cache_memory // self._parallel.ranks
            blocks = memory // self._block_bytes
        elif self._device.type == "cuda":
            memory = self._free_cuda_memory()
            blocks = memory // self._block_bytes
        else:
            memory = int(available_memory() * CPU_CACHE_SHARE) // (config.replicas * self._parallel.ranks)
            blocks = min(wanted, memory // self._block_bytes)
        least = longest if config.max_model_len is not None else min(longest, LEAST_CACHE)
        if blocks * config.block_size < least:
            needed = -(-least // config.block_size) * self._block_bytes
            raise ConfigurationError(
                f"the KV cache may take {max(memory, 0):,} bytes, which holds {max(blocks, 0) * config.block_size} "
                f"tokens; {needed:,} bytes are needed for {least}: raise --kv-cache-memory or lower --max-model-len"
            )
        return blocks

    def allocate_cache(self, num_blocks: int) -> None:
        """Make the cache that ``execute`` reads and writes."""
        self._cache = self._new_cache(num_blocks + (self._capturing is not None))
        self._runner.capture(self._cache)

    def use_idle_time(self) -> bool:
        if self._cache.use_idle_time():
            return True
        return self._parallel.samples and self._masks.use_idle_time()

    def launch(self, batch: ScheduledBatch) -> Callable[[], StepResult | None]:
        """Begin a step. Gives what waits for its result, which is None on a rank that does not sample.

        Where ``can_be_followed`` then holds, one more step may be launched before it is waited for.
        """
        self._cache.reach(int(batch.block_tables.max()))
        return self._runner.launch(batch, self._cache)

    def execute(self, batch: ScheduledBatch) -> StepResult | None:
        """``launch``, and wait."""
        return self.launch(batch)()

    @property
    def can_be_followed(self) -> bool:
        return self.overlaps and self._runner.can_be_followed

    def _take_device(self, threads: int) -> None:
        """On a CPU the ranks share ``threads``."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)
        else:
            torch.set_num_threads(max(1, threads // self._parallel.ranks))

    def _make_runner(self, kernels: Kernels, activations: torch.dtype, eos_token_ids: list[int]) -> None:
        """What runs the model that is loaded, and draws from its logits."""
        config, device, vocab_size = self._config, self._device, self._model.vocab_size
        self._masks = GrammarMasks(
            lambda: _grammar_compiler(config, vocab_size, eos_token_ids), vocab_size, config.max_num_seqs
        )
        transfers = transfers_of(device)
        sampler = Sampler(kernels, vocab_size, config.max_num_seqs, device, self._masks, transfers)
        self._capturing = choose_capturing(config, device, kernels)
        self._runner = ModelRunner(
            self._model, self._buffers(), sampler, kernels, activations, transfers, self._parallel, self._capturing
        )

    def _check_memory(self, weight_bytes: int, free: int) -> None:
        """Weights take their memory as they are filled: too many would have the process killed without a word."""
        if self._device.type == "cpu" and weight_bytes > free:
            raise ConfigurationError(
                f"the weights take {weight_bytes:,} bytes in {self._weight_format}, "
                f"and {free:,} bytes of memory are free"
            )

    def _tell_of_weights(self, before: int, after: int) -> None:
        quantization, dtype = self._config.quantization, _name(self._dtype)
        if quantization != NONE:
            logger.info(
                "weights: %s bytes in %s, quantized to %s, held in %s bytes",
                f"{before:,}",
                dtype,
                quantization,
                f"{after:,}",
            )

    @property
    def _weight_format(self) -> str:
        """Of most weights."""
        return _name(self._dtype) if self._config.quantization == NONE else self._config.quantization

    @property
    def _longest(self) -> int:
        return self._config.max_model_len or self._model.max_model_len

    @property
    def _block_bytes(self) -> int:
        return block_bytes(self._model.cache_shape, self._config.block_size, self._cache_dtype)

    def _buffers(self) -> InputBuffers:
        config = self._config
        blocks = -(-self._longest // config.block_size)
        return InputBuffers(config.max_num_batched_tokens, config.max_num_seqs, blocks, config.block_size, self._device)

    def _new_cache(self, num_blocks: int) -> KVCache:
        return KVCache(self._model.cache_shape, num_blocks, self._config.block_size, self._cache_dtype, self._device)

    def _free_cuda_memory(self) -> int:
        """Bytes left for the cache beside weights and the activations of a full step, which is run to measure them."""
        batch = full_step(self._config, self._longest)
        torch.cuda.reset_peak_memory_stats(self._device)
        self._runner.launch(batch, self._new_cache(sum(map(len, batch.block_tables))))()
        peak = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        used_by_others = total - free - torch.cuda.memory_reserved(self._device)
        return int(total * self._config.gpu_memory_utilization) - used_by_others - peak


def _grammar_compiler(config: EngineConfig, vocab_size: int, eos_token_ids: list[int]) -> GrammarCompiler:
    try:
        vocabulary = Vocabulary.load(Path(config.model), vocab_size)
    except ModelError as error:
        raise GrammarError(str(error)) from error
    return GrammarCompiler(vocabulary, eos_token_ids, config.max_grammar_states)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def choose_device(config: EngineConfig, rank: int) -> torch.device:
    """Each rank of each replica takes a GPU of its own; on a CPU they share it."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError("--device cuda: torch finds no CUDA device here")
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if config.replicas * config.ranks > count:
        ranks = f" of {config.ranks} ranks" if config.ranks > 1 else ""
        raise ConfigurationError(
            f"--replicas {config.replicas}{ranks}: each takes a GPU of its own, and torch finds {count}"
        )
    return torch.device("cuda", config.replica * config.ranks + rank)


def choose_capturing(config: EngineConfig, device: torch.device, kernels: Kernels) -> Capturing | None:
    """None where steps cannot be captured: ranks send messages in them, and PyTorch's references ask the host."""
    asking = REFERENCE in {kernels.chosen.get(op) for op in ("paged_attention", "sample_tokens")}
    if device.type != "cuda" or not config.cuda_graphs or config.ranks > 1 or asking:
        return None
    return CudaCapturing(device)


@contextmanager
def _readable_mistakes() -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ConfigurationError(f"the weights do not fit the device: {error}") from error
    except NotInvariantError as error:
        raise ConfigurationError(f"--deterministic: {error}") from error


def _check_length(config: EngineConfig, model: Model) -> None:
    if config.max_model_len is not None and config.max_model_len > model.max_model_len:
        raise ConfigurationError(
            f"--max-model-len {config.max_model_len} exceeds what the model was made for, {model.max_model_len}"
        )
