"""Checkpoints that are not exactly the model's stop the start, saying what is wrong."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.multiprocessing.reductions import StorageWeakRef

from engine import loader
from engine.config import EngineConfig
from engine.errors import ModelError
from engine.models.hf_config import HFConfig
from engine.parallel import Parallel
from engine.worker.worker import Worker


@pytest.fixture
def checkpoint(make_checkpoint, tmp_path) -> Path:
    """A copy of a tiny Llama checkpoint to do harm to."""
    return shutil.copytree(make_checkpoint("LlamaForCausalLM"), tmp_path / "model")


def load(folder: Path, **config):
    progress: list[tuple[str, int, int, str]] = []
    worker = Worker(EngineConfig(model=str(folder), num_threads=1, **config), lambda *report: progress.append(report))
    return worker.load(), worker, progress


def edit(folder: Path, change):
    """Apply a change to the dictionary of tensors in the checkpoint."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def refused(folder: Path, **config) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder, **config)
    return str(caught.value)


def shard(folder: Path):
    """Split the single file into two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def weights(worker: Worker) -> torch.Tensor:
    """Something that depends on every weight: the logits of a few tokens."""
    from engine.worker.profiling import full_step

    worker.allocate_cache(128)
    batch = full_step(worker._config, 8)
    with torch.inference_mode():
        return worker._model.logits(worker._runner.forward(batch, worker._cache)[0])


def test_missing_weights(checkpoint):
    def change(tensors):
        del tensors["model.layers.1.self_attn.k_proj.weight"]
        del tensors["lm_head.weight"]

    edit(checkpoint, change)
    message = refused(checkpoint)
    assert "Weights missing (2):" in message
    assert "  model.layers.1.self_attn.k_proj.weight: expected (16, 32)" in message
    assert "  lm_head.weight: expected (160, 32)" in message
    assert "extra" not in message


def test_extra_weights(checkpoint):
    edit(checkpoint, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}))
    message = refused(checkpoint)
    assert "Weights extra (1):" in message
    assert "  model.layers.0.self_attn.q_proj.bias: found (32,)" in message


def test_weights_of_the_wrong_shape(checkpoint):
    edit(checkpoint, lambda tensors: tensors.update({"model.norm.weight": torch.ones(31)}))
    message = refused(checkpoint)
    assert "Weights of the wrong shape (1):" in message
    assert "  model.norm.weight: expected (32,), found (31,)" in message


def test_a_shape_that_would_broadcast_is_still_wrong(checkpoint):
    edit(checkpoint, lambda tensors: tensors.update({"model.norm.weight": torch.ones(1)}))
    assert "model.norm.weight: expected (32,), found (1,)" in refused(checkpoint)


def test_a_long_list_is_cut(checkpoint):
    edit(checkpoint, lambda tensors: [tensors.pop(name) for name in list(tensors) if "layers" in name])
    message = refused(checkpoint)
    assert "Weights missing (27):" in message
    assert "  and 15 more" in message


def test_weights_of_a_quantized_dtype(checkpoint):
    edit(checkpoint, lambda tensors: tensors.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}))
    assert "model.norm.weight: found I8, supported are F32, BF16, F16" in refused(checkpoint)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_file(checkpoint, keep):
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    message = refused(checkpoint)
    assert str(file) in message
    assert "not a whole safetensors file" in message


def test_no_weights(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    assert refused(checkpoint).endswith("holds neither model.safetensors nor model.safetensors.index.json")
    (checkpoint / "pytorch_model.bin").touch()
    assert refused(checkpoint).endswith("; weights in pytorch_model.bin must be converted to safetensors")


def test_a_shard_that_is_not_there(checkpoint):
    shard(checkpoint)
    (checkpoint / "model-2.safetensors").unlink()
    assert "model-2.safetensors is missing" in refused(checkpoint)


def test_a_broken_index(checkpoint):
    shard(checkpoint)
    (checkpoint / "model.safetensors.index.json").write_text("{}")
    assert "model.safetensors.index.json cannot be read" in refused(checkpoint)


def test_shards_give_the_same_weights_as_one_file(checkpoint):
    expected = weights(load(checkpoint)[1])
    shard(checkpoint)
    assert torch.equal(weights(load(checkpoint)[1]), expected)


def test_rotary_buffers_of_old_checkpoints_are_tolerated(checkpoint):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit(checkpoint, lambda tensors: tensors.update({name: torch.zeros(4)}))
    load(checkpoint)


def tied(make_checkpoint, tmp_path, head) -> Path:
    folder = shutil.copytree(make_checkpoint("LlamaForCausalLM", tie_word_embeddings=True), tmp_path / "tied")
    edit(folder, lambda tensors: tensors.update({"lm_head.weight": head(tensors["model.embed_tokens.weight"])}))
    return folder


def test_a_tied_head_may_be_repeated(make_checkpoint, tmp_path):
    load(tied(make_checkpoint, tmp_path, torch.clone))


@pytest.mark.parametrize("head", [lambda weight: weight + 1, lambda weight: weight[:-1].clone()])
def test_a_tied_head_must_be_the_same(make_checkpoint, tmp_path, head):
    message = refused(tied(make_checkpoint, tmp_path, head))
    assert "ties lm_head.weight to model.embed_tokens.weight" in message
    assert "they differ" in message


# --- a rank's part ----------------------------------------------------------------------------------------


class Silent:
    """A group whose other ranks never say anything: enough to build and load a part."""


def part(folder: Path, rank: int, ranks: int = 2, **config) -> Worker:
    parallel = Parallel(tensor_size=ranks, tensor_rank=rank, group=Silent(), reduces=config.pop("reduces", False))
    worker = Worker(EngineConfig(model=str(folder), num_threads=1, **config), lambda *_: None, parallel)
    worker.load()
    return worker


def watch(monkeypatch) -> tuple[dict[str, torch.Tensor], list[int]]:
    """What each weight is filled with, and how many numbers were read for it."""
    filled, sizes = {}, []
    fill, read = loader._fill, loader.Checkpoint.read

    def watched_fill(layer, put):
        found = fill(layer, put)
        filled.update({slot.name: slot.destination.clone() for slot in layer.weights()})
        return found

    def watched_read(checkpoint, name, part=()):
        tensor = read(checkpoint, name, part)
        if part:
            sizes.append(tensor.numel())
        return tensor

    monkeypatch.setattr(loader, "_fill", watched_fill)
    monkeypatch.setattr(loader.Checkpoint, "read", watched_read)
    return filled, sizes


@pytest.mark.parametrize("reduces", [False, True])
def test_ranks_read_their_own_parts_which_make_the_whole(checkpoint, monkeypatch, reduces):
    filled, sizes = watch(monkeypatch)
    load(checkpoint)
    whole, total = dict(filled), sum(sizes)
    parts, read = [], []
    for rank in range(2):
        sizes.clear()
        part(checkpoint, rank, reduces=reduces)
        parts.append(dict(filled))
        read.append(sum(sizes))
    assert read == [total // 2] * 2
    for name, tensor in whole.items():
        one, other = (each[name] for each in parts)
        inwards = reduces and name.endswith(("o_proj.weight", "down_proj.weight"))
        found = one if "norm" in name else torch.cat([one, other], dim=1 if inwards else 0)
        assert torch.equal(found, tensor), name
    assert torch.equal(parts[0]["model.norm.weight"], parts[1]["model.norm.weight"])


def test_a_rank_notices_what_others_would_miss(checkpoint):
    edit(checkpoint, lambda tensors: tensors.pop("model.layers.2.mlp.down_proj.weight"))
    parallel = Parallel(stages=3, stage=0)
    worker = Worker(EngineConfig(model=str(checkpoint), num_threads=1), lambda *_: None, parallel)
    with pytest.raises(ModelError, match=r"Weights missing \(1\):\n  model.layers.2.mlp.down_proj.weight: expected"):
        worker.load()


@pytest.mark.parametrize("row", [3, 150])
def test_a_rank_compares_its_part_of_a_tied_head(make_checkpoint, tmp_path, row):
    def changed(weight):
        weight = weight.clone()
        weight[row] += 1
        return weight

    folder = tied(make_checkpoint, tmp_path, changed)
    with pytest.raises(ModelError, match="the checkpoint holds both and they differ"):
        part(folder, row // 80)
    part(folder, 1 - row // 80)


def test_progress_counts_the_bytes_of_the_weights(checkpoint):
    facts, _, progress = load(checkpoint)
    assert {(stage, total, unit) for stage, _, total, unit in progress} == {("weights", facts.weight_bytes, "bytes")}
    done = [done for _, done, _, _ in progress]
    assert done == sorted(done)
    assert done[-1] == facts.weight_bytes


def test_a_layer_is_packed_before_the_next_is_filled(checkpoint, monkeypatch):
    """And nothing holds on to what it was filled into: the peak is the packed weights and one layer."""
    storages: list[StorageWeakRef] = []
    unpacked: list[int] = []
    fill = loader._fill

    def watched(layer, put):
        filled = fill(layer, put)
        # A norm's weight is kept as it is; a matrix is replaced by what it is packed into.
        matrices = [slot.destination.untyped_storage() for slot in layer.weights() if slot.destination.dim() == 2]
        if matrices:
            storages.append(StorageWeakRef(matrices[0]))
            unpacked.append(sum(not storage.expired() for storage in storages))
        return filled

    monkeypatch.setattr(loader, "_fill", watched)
    load(checkpoint, quantization="int8")
    assert unpacked == [1] * (2 + 3 * 4)


def test_files_are_mapped_anew_now_and_then(checkpoint, monkeypatch):
    expected = weights(load(checkpoint)[1])
    opened = []
    open_file = loader.safe_open

    def counted(file, **options):
        opened.append(file)
        return open_file(file, **options)

    monkeypatch.setattr(loader, "safe_open", counted)
    monkeypatch.setattr(loader, "MAPPED", 20_000)
    assert torch.equal(weights(load(checkpoint)[1]), expected)
    assert len(opened) > 4


def test_dummy_weights_need_no_checkpoint_and_follow_the_seed(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    results = [weights(load(checkpoint, load_format="dummy", seed=seed)[1]) for seed in (1, 1, 2)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert results[0].isfinite().all()


def test_the_fingerprint_follows_the_weights(checkpoint):
    same = [load(checkpoint)[0].fingerprint for _ in range(2)]
    edit(checkpoint, lambda tensors: tensors["model.norm.weight"].add_(1))
    changed = load(checkpoint)[0].fingerprint
    other_dtype = load(checkpoint, dtype="bfloat16")[0].fingerprint
    assert same[0] == same[1]
    assert len({same[0], changed, other_dtype}) == 3


def test_dtype_without_one_in_the_config_is_that_of_the_tensors(make_checkpoint, tmp_path):
    folder = shutil.copytree(make_checkpoint("LlamaForCausalLM", dtype="bfloat16"), tmp_path / "model")
    fields = json.loads((folder / "config.json").read_text())
    del fields["dtype"]
    (folder / "config.json").write_text(json.dumps(fields))
    assert load(folder)[0].dtype == "bfloat16"


@pytest.mark.parametrize(("dtype", "said"), [(torch.float64, "F64"), (None, "missing")])
def test_tensors_of_no_supported_dtype_where_the_config_names_none(make_checkpoint, tmp_path, dtype, said):
    folder = shutil.copytree(make_checkpoint("LlamaForCausalLM"), tmp_path / "model")
    fields = json.loads((folder / "config.json").read_text())
    del fields["dtype"]
    (folder / "config.json").write_text(json.dumps(fields))
    save_file({} if dtype is None else {"x": torch.zeros(2, dtype=dtype)}, folder / "model.safetensors")
    assert f"the dtype of the weights is {said}" in refused(folder)


def test_an_unsupported_dtype_in_the_config(checkpoint):
    config = HFConfig({"torch_dtype": "float8_e4m3fn"}, "config.json")
    with pytest.raises(ModelError, match="float8_e4m3fn; supported are float32, bfloat16, float16"):
        loader.resolve_dtype("auto", config, None)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [5, 7]}, {"eos_token_id": 2}, [5, 7]),
        ({"eos_token_id": 5}, {"eos_token_id": 2}, [5]),
        ({}, {"eos_token_id": 2}, [2]),
        (None, {"eos_token_id": [2, 3]}, [2, 3]),
        (None, {}, []),
        ({"eos_token_id": [-1, 5, 64]}, {}, [5]),
    ],
)
def test_eos_token_ids(tmp_path, generation, config, expected):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert loader.eos_token_ids(tmp_path, HFConfig(config | {"vocab_size": 64}, "config.json")) == expected
