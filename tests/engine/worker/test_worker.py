"""Worker: device, cache size, batches in and tokens out."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from engine.batch import NO_TOKEN, PromptLogprobsRequest, SampleRequest, ScheduledBatch
from engine.config import EngineConfig
from engine.errors import ConfigurationError
from engine.parallel import Parallel
from engine.sampling_params import SamplingParams
from engine.worker import machine
from engine.worker import worker as worker_module
from engine.worker.profiling import full_step
from engine.worker.sampler import InvalidLogitsError
from engine.worker.worker import Worker, choose_device
from kernels.kv_formats import as_bytes
from kernels.providers.cpu import loader

GREEDY = SamplingParams(max_tokens=9, temperature=0.0)


def loaded(folder, **config) -> Worker:
    settings = {"num_threads": 1, "block_size": 4, "max_num_seqs": 8} | config
    worker = Worker(EngineConfig(model=str(folder), **settings), lambda *_: None)
    worker.load()
    return worker


@pytest.fixture
def folder(make_checkpoint):
    return make_checkpoint("Qwen3ForCausalLM")


def padded(tables):
    """Block tables as the batch has them, an array; -1 would be noticed if it were ever read."""
    longest = max(map(len, tables))
    return np.array([table + [-1] * (longest - len(table)) for table in tables], dtype=np.int32)


def batch(rows, samples=(), prompt_logprobs=()):
    """rows: (token ids of the chunk, context length, block table)."""
    return ScheduledBatch(
        step=0,
        sequence_ids=tuple(f"row-{row}" for row in range(len(rows))),
        input_ids=np.concatenate([np.array(ids, dtype=np.int32) for ids, _, _ in rows]),
        query_lens=np.array([len(ids) for ids, _, _ in rows], dtype=np.int32),
        context_lens=np.array([context for _, context, _ in rows], dtype=np.int32),
        block_tables=padded([table for *_, table in rows]),
        samples=tuple(samples),
        prompt_logprobs=tuple(prompt_logprobs),
    )


def sample(row, params=GREEDY, position=0):
    return SampleRequest(row, params, seed=3, choice=0, position=position, prompt_ids=None, output_ids=None)


def reference_logprobs(folder, ids):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)


def test_tokens_come_for_the_sampled_rows_alone(folder):
    worker = loaded(folder)
    worker.allocate_cache(32)
    first, second, third = [5, 6, 7, 8, 9], [40, 41, 42], [90]
    result = worker.execute(
        batch([(first, 0, [3, 9]), (second, 0, [4]), (third, 0, [5])], samples=[sample(0), sample(2)])
    )
    expected = [int(reference_logprobs(folder, ids)[-1].argmax()) for ids in (first, third)]
    assert result.token_ids == expected
    assert result.logprobs == [None, None]
    assert result.prompt_logprobs == []


def test_a_batch_that_samples_nothing(folder):
    worker = loaded(folder)
    worker.allocate_cache(32)
    result = worker.execute(batch([([5, 6, 7], 0, [1])]))
    assert (result.token_ids, result.logprobs, result.prompt_logprobs) == ([], [], [])


def test_buffers_are_reused_without_a_trace(folder):
    """A long batch before a short one leaves nothing behind."""
    worker = loaded(folder)
    worker.allocate_cache(64)
    small = batch([([5, 6, 7], 0, [60])], samples=[sample(0)])
    alone = worker.execute(small).token_ids
    many = [(list(range(10, 40)), 0, list(range(8 * row, 8 * row + 8))) for row in range(7)]
    worker.execute(batch(many, samples=[sample(row) for row in range(7)]))
    assert worker.execute(small).token_ids == alone


def test_prompt_logprobs_over_chunks(folder):
    worker = loaded(folder)
    worker.allocate_cache(32)
    ids = list(range(20, 33))
    table = [7, 2, 11, 0]
    expected = reference_logprobs(folder, ids)
    entries = []
    for start, stop in [(0, 5), (5, 6), (6, 13)]:
        targets = np.array(ids[start + 1 : stop + 1], dtype=np.int32)
        other = ([1, 2, 3], 0, [20])
        asked = [PromptLogprobsRequest(row=1, top=2, targets=targets)] if len(targets) else []
        result = worker.execute(batch([other, (ids[start:stop], start, table)], prompt_logprobs=asked))
        entries += result.prompt_logprobs[0]
    assert len(entries) == len(ids) - 1
    for position, entry in enumerate(entries):
        assert entry.logprob == pytest.approx(float(expected[position, ids[position + 1]]), abs=1e-4)
        assert entry.top_ids == expected[position].topk(2).indices.tolist()


def test_prompt_logprobs_in_slices_are_the_same(folder, monkeypatch):
    worker = loaded(folder)
    worker.allocate_cache(32)
    ids = list(range(20, 33))
    asked = PromptLogprobsRequest(row=0, top=2, targets=np.array(ids[1:], dtype=np.int32))
    whole = worker.execute(batch([(ids, 0, [0, 1, 2, 3])], prompt_logprobs=[asked])).prompt_logprobs
    monkeypatch.setattr("engine.worker.model_runner.LOGPROB_ROWS", 5)
    sliced = worker.execute(batch([(ids, 0, [0, 1, 2, 3])], prompt_logprobs=[asked])).prompt_logprobs
    assert [(e.rank, e.top_ids) for e in sliced[0]] == [(e.rank, e.top_ids) for e in whole[0]]


def test_the_facts(folder, make_checkpoint):
    worker = Worker(EngineConfig(model=str(folder), num_threads=1, block_size=8), lambda *_: None)
    facts = worker.load()
    assert (facts.device, facts.dtype, facts.vocab_size, facts.max_model_len) == ("cpu", "float32", 160, 512)
    assert facts.eos_token_ids == [2]
    assert facts.block_bytes == 3 * 2 * 8 * 2 * 128 * 4
    assert facts.kernels["linear"] == ("cpu" if loader.available() else "torch")
    for dtype, head in [("fp8", 128), ("int8", 132), ("float16", 256)]:
        narrow = loaded(folder, block_size=8, kv_cache_dtype=dtype)
        assert narrow._block_bytes == 3 * 2 * 8 * 2 * head
    other = Worker(EngineConfig(model=str(make_checkpoint("Qwen3ForCausalLM", seed=1)), num_threads=1), lambda *_: None)
    assert other.load().fingerprint != facts.fingerprint


def test_a_cache_of_another_dtype_is_other_numerics_and_nearly_the_same_scores(folder):
    ids, found, fingerprints = list(range(20, 50)), {}, set()
    for dtype in ("auto", "float16", "int8", "fp8"):
        worker = Worker(EngineConfig(model=str(folder), num_threads=1, kv_cache_dtype=dtype), lambda *_: None)
        fingerprints.add(worker.load().fingerprint)
        worker.allocate_cache(8)
        asked = PromptLogprobsRequest(row=0, top=0, targets=np.array(ids[1:], dtype=np.int32))
        (entries,) = worker.execute(batch([(ids, 0, [5, 2])], prompt_logprobs=[asked])).prompt_logprobs
        found[dtype] = np.array([entry.logprob for entry in entries])
    assert len(fingerprints) == 4
    errors = {dtype: float(np.abs(each - found["auto"]).max()) for dtype, each in found.items()}
    assert errors["auto"] == 0 < errors["float16"] < errors["int8"] < errors["fp8"] < 0.2


# --- size of the cache ------------------------------------------------------------------------------------


def test_the_cache_holds_the_greatest_load_where_memory_allows(folder):
    worker = loaded(folder, max_num_seqs=3, max_model_len=50, block_size=16)
    assert worker.cache_capacity() == 3 * 4


def test_the_cache_takes_a_quarter_of_free_memory_at_most(folder, monkeypatch):
    worker = loaded(folder, max_num_seqs=100, max_model_len=512)
    monkeypatch.setattr(worker_module, "available_memory", lambda: 4 * 200 * worker._block_bytes)
    assert worker.cache_capacity() == 200


def test_replicas_share_memory_and_cores(folder, monkeypatch):
    monkeypatch.setattr(machine, "available_cores", lambda: 7)
    for replicas, threads in ((3, 2), (7, 1), (9, 1)):
        worker = loaded(folder, max_num_seqs=100, max_model_len=512, replicas=replicas, num_threads=None)
        assert torch.get_num_threads() == threads
        memory = 4 * 1200 * worker._block_bytes
        monkeypatch.setattr(worker_module, "available_memory", lambda memory=memory: memory)
        assert worker.cache_capacity() == 1200 // replicas
    loaded(folder, replicas=3, num_threads=1)
    assert torch.get_num_threads() == 1


def test_ranks_share_what_a_replica_has(folder, monkeypatch):
    alone = loaded(folder)._block_bytes
    config = EngineConfig(model=str(folder), block_size=4, max_model_len=512, num_threads=7, replicas=2)
    worker = Worker(config, lambda *_: None, Parallel(stages=3, stage=1))
    worker.load()
    assert torch.get_num_threads() == 2
    assert worker._block_bytes == alone // 3
    monkeypatch.setattr(worker_module, "available_memory", lambda: 4 * 2 * 3 * 200 * worker._block_bytes)
    assert worker.cache_capacity() == 200
    worker._config = msgspec.structs.replace(config, kv_cache_memory=300 * alone)
    assert worker.cache_capacity() == 300


def test_the_cache_takes_the_memory_it_is_given(folder):
    block = loaded(folder)._block_bytes
    assert loaded(folder, kv_cache_memory=100 * block + block // 2).cache_capacity() == 100


@pytest.mark.parametrize(("max_model_len", "blocks", "needed"), [(None, 63, 256), (400, 99, 400), (40, 9, 40)])
def test_a_cache_too_small_to_serve_is_refused(folder, max_model_len, blocks, needed):
    block = loaded(folder)._block_bytes
    worker = loaded(folder, max_model_len=max_model_len, kv_cache_memory=blocks * block)
    with pytest.raises(ConfigurationError, match=f"holds {blocks * 4} tokens; .* are needed for {needed}"):
        worker.cache_capacity()
    enough = loaded(folder, max_model_len=max_model_len, kv_cache_memory=(blocks + 1) * block)
    assert enough.cache_capacity() == blocks + 1


def test_a_context_longer_than_the_models_is_refused(folder):
    worker = Worker(EngineConfig(model=str(folder), max_model_len=513, num_threads=1), lambda *_: None)
    with pytest.raises(ConfigurationError, match="513 exceeds what the model was made for, 512"):
        worker.load()


def test_weights_that_exceed_free_memory_are_refused_before_they_are_read(folder, monkeypatch):
    monkeypatch.setattr(worker_module, "available_memory", lambda: 1000)
    with pytest.raises(ConfigurationError, match="the weights take 690,048 bytes in float32, and 1,000 bytes"):
        loaded(folder)


def test_nan_in_a_sequence_is_its_own_affair(folder):
    worker = loaded(folder)
    worker.allocate_cache(32)
    worker._cache.layers[0][0][9] = torch.nan
    healthy, ill = ([5, 6], 0, [1]), ([7], 4, [9, 2])
    (expected,) = worker.execute(batch([healthy], samples=[sample(0)])).token_ids
    for rows in ([healthy, ill], [ill, healthy]):
        at = rows.index(healthy)
        found = worker.execute(batch(rows, samples=[sample(0), sample(1)])).token_ids
        assert (found[at], found[1 - at]) == (expected, NO_TOKEN)
    assert worker.execute(batch([ill], samples=[sample(0)])).token_ids == [NO_TOKEN]
    with pytest.raises(InvalidLogitsError, match="all 2 rows"):
        worker.execute(batch([ill, ill], samples=[sample(0), sample(1)]))


@pytest.mark.parametrize("dtype", ["auto", "fp8", "int8"])
def test_what_a_block_held_before_does_not_matter_however_bad_it_is(folder, dtype):
    worker = loaded(folder, kv_cache_dtype=dtype)
    worker.allocate_cache(32)
    fresh = worker.execute(batch([([5, 6, 7], 0, [1])], samples=[sample(0)])).token_ids
    for layer in worker._cache.layers:
        for tensor in (each for each in layer if each is not None):
            as_bytes(tensor)[2] = 0x7F if tensor.itemsize == 1 else torch.nan  # Of e4m3 it is NaN.
    assert worker.execute(batch([([5, 6, 7], 0, [2])], samples=[sample(0)])).token_ids == fresh


def test_an_untouched_cache_takes_no_memory(folder):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    worker = loaded(folder)
    before = resident()
    worker.allocate_cache((1 << 30) // worker._block_bytes)
    assert resident() - before < 1 << 26


def test_cuda_where_there_is_none(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="no CUDA device"):
        Worker(EngineConfig(model=str(folder), device="cuda"), lambda *_: None)


def test_each_replica_takes_a_gpu_of_its_own(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = EngineConfig(model=str(folder), replicas=2, replica=1)
    assert Worker(config, lambda *_: None)._device == torch.device("cuda", 1)
    with pytest.raises(ConfigurationError, match="--replicas 3: each takes a GPU of its own, and torch finds 2"):
        Worker(EngineConfig(model=str(folder), replicas=3), lambda *_: None)
    ranks = EngineConfig(model=str(folder), replicas=1, pipeline_parallel_size=2)
    assert choose_device(ranks, 1) == torch.device("cuda", 1)
    with pytest.raises(ConfigurationError, match="--replicas 2 of 2 ranks: each takes a GPU of its own, and torch fin"):
        choose_device(msgspec.structs.replace(ranks, replicas=2), 0)
    on_cpu = EngineConfig(model=str(folder), replicas=3, device="cpu")
    assert Worker(on_cpu, lambda *_: None)._device == torch.device("cpu")


@pytest.mark.parametrize(("budget", "seqs", "longest"), [(32, 8, 512), (4, 8, 512), (512, 2, 100)])
def test_the_profiling_step_fits_the_buffers(folder, budget, seqs, longest):
    config = EngineConfig(
        model=str(folder), max_num_batched_tokens=budget, max_num_seqs=seqs, block_size=4, num_threads=1
    )
    step = full_step(config, longest)
    assert len(step.input_ids) <= budget
    assert len(step.query_lens) <= seqs
    assert step.query_lens.max() <= longest
    worker = Worker(config, lambda *_: None)
    worker.load()
    worker.allocate_cache(step.block_tables.size)
    assert len(worker.execute(step).token_ids) == len(step.query_lens)


def test_deterministic_is_kept_or_refused(folder, monkeypatch):
    assert loaded(folder, deterministic=True)
    monkeypatch.setattr(loader, "find", lambda: None)
    with pytest.raises(ConfigurationError, match=r"^--deterministic: nothing on this machine computes"):
        loaded(folder, deterministic=True)
