"""Checkpoints in safetensors, one file or sharded, copied straight into a model's (merged) parameters.

A checkpoint that does not hold exactly the model's weights stops the start with a list of what is wrong: random
weights must never answer a request. Files are mapped into memory and read once, so that beside the parameters only
the operating system's page cache grows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import ModelError
from engine.layers.base import WeightSlot
from engine.models.base import Model
from engine.models.hf_config import HFConfig

Progress: TypeAlias = Callable[[str, int, int, str], None]

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""safetensors' names of the dtypes a weight may have."""
DTYPES_BY_NAME = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
TOLERATED_SUFFIX = ".rotary_emb.inv_freq"
"""Buffers that old checkpoints saved and that follow from the config; transformers ignores them as well."""
LISTED = 12
"""Lines a list of errors shows of each kind."""
PAGE, STRIDE = 4096, 1 << 20
"""The digest of the weights reads a page of every mebibyte."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint, as the header of its file describes it."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it."""


class Checkpoint:
    """The tensors of a folder by name; opening one reads the headers alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tensors: dict[str, StoredTensor] = {}
        for file in _files(folder):
            with _opened(file) as opened:
                for name in opened.offset_keys():
                    part = opened.get_slice(name)
                    self.tensors[name] = StoredTensor(file, tuple(part.get_shape()), part.get_dtype())

    def dtype(self) -> torch.dtype:
        """Of most of its tensors. Raises ModelError where that is none of a weight's."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            counts[tensor.dtype] = counts.get(tensor.dtype, 0) + 1
        name = max(counts, key=lambda name: counts[name], default="missing")
        if name not in DTYPES:
            raise ModelError(f"{self.folder}: the dtype of the weights is {name}; supported are {', '.join(DTYPES)}")
        return DTYPES[name]

    def read(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor), file by file; a tensor is a view of the mapped file."""
        for file in dict.fromkeys(tensor.file for tensor in self.tensors.values()):
            with _opened(file) as opened:
                for name in opened.offset_keys():
                    yield name, opened.get_tensor(name)


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            yield opened
    except FileNotFoundError:
        raise ModelError(f"{file} is missing") from None
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} is not a whole safetensors file: {error}") from error


def _files(folder: Path) -> list[Path]:
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if not (folder / INDEX).exists():
        others = ", ".join(sorted(file.name for file in folder.glob("*.bin")))
        hint = f"; weights in {others} must be converted to safetensors" if others else ""
        raise ModelError(f"{folder} holds neither {SINGLE} nor {INDEX}{hint}")
    try:
        names = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{folder / INDEX} cannot be read: {error!r}") from error
    return [folder / name for name in sorted(names)]


def resolve_dtype(asked: str, config: HFConfig, checkpoint: Checkpoint | None) -> torch.dtype:
    """The dtype of the engine's weights: as asked for; with ``auto`` the config's, else that of the tensors."""
    name = config.get("dtype", str) or config.get("torch_dtype", str) if asked == "auto" else asked
    if name is None:
        return torch.float32 if checkpoint is None else checkpoint.dtype()
    if name not in DTYPES_BY_NAME:
        raise config.error("dtype", f"is {name}; supported are {', '.join(DTYPES_BY_NAME)}")
    return DTYPES_BY_NAME[name]


def load_weights(model: Model, checkpoint: Checkpoint, progress: Progress) -> str:
    """Fill every weight of the model; returns a digest of the checkpoint's values.

    Raises ModelError where names, shapes or dtypes are not exactly the model's.
    """
    slots = {slot.name: slot for slot in model.weights()}
    _check(slots, checkpoint, model.tied_weights)
    digest = hashlib.sha256()
    done, total = 0, sum(_bytes(slot.destination) for slot in slots.values())
    for name, tensor in checkpoint.read():
        slot = slots.get(name)
        if slot is None:
            continue
        slot.destination.copy_(tensor)
        _update(digest, name, tensor)
        done += _bytes(slot.destination)
        progress("weights", done, total, "bytes")
    _check_repeated(model.tied_weights, checkpoint, slots)
    return digest.hexdigest()


def dummy_weights(model: Model, seed: int, progress: Progress) -> str:
    """Fill every weight with seeded random numbers of a scale that keeps activations sensible; returns a digest."""
    slots = list(model.weights())
    done, total = 0, sum(_bytes(slot.destination) for slot in slots)
    generator = torch.Generator().manual_seed(seed)
    for slot in slots:
        if slot.constant is not None:
            slot.destination.fill_(slot.constant)
        else:
            shape = slot.destination.shape
            slot.destination.copy_(torch.randn(shape, generator=generator) * shape[-1] ** -0.5)
        done += _bytes(slot.destination)
        progress("weights", done, total, "bytes")
    return f"dummy {seed}"


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    """Add a tensor's name, shape and dtype and a sample of its bytes."""
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    values = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    for start in range(0, len(values), STRIDE):
        digest.update(values[start : start + PAGE].tobytes())
    digest.update(values[-PAGE:].tobytes())


def _check(slots: Mapping[str, WeightSlot], checkpoint: Checkpoint, tied: Mapping[str, str]) -> None:
    stored = checkpoint.tensors
    missing = [f"{name}: expected {tuple(slots[name].destination.shape)}" for name in slots if name not in stored]
    extra = [
        f"{name}: found {tensor.shape}"
        for name, tensor in stored.items()
        if name not in slots and name not in tied and not name.endswith(TOLERATED_SUFFIX)
    ]
    shapes = [
        f"{name}: expected {tuple(slot.destination.shape)}, found {stored[name].shape}"
        for name, slot in slots.items()
        if name in stored and stored[name].shape != tuple(slot.destination.shape)
    ]
    dtypes = [
        f"{name}: found {stored[name].dtype}, supported are {', '.join(DTYPES)}"
        for name in slots
        if name in stored and stored[name].dtype not in DTYPES
    ]
    kinds = {"missing": missing, "extra": extra, "of the wrong shape": shapes, "of an unsupported dtype": dtypes}
    lines = [line for kind, found in kinds.items() if found for line in _listed(f"Weights {kind}", found)]
    if lines:
        raise ModelError("\n".join([f"{checkpoint.folder} does not hold the weights of its config.json.", *lines]))


def _listed(title: str, found: list[str]) -> Iterator[str]:
    yield f"{title} ({len(found)}):"
    yield from (f"  {line}" for line in found[:LISTED])
    if len(found) > LISTED:
        yield f"  and {len(found) - LISTED} more"


def _check_repeated(tied: Mapping[str, str], checkpoint: Checkpoint, slots: Mapping[str, WeightSlot]) -> None:
    """A tied weight that the checkpoint repeats must be the same one."""
    for repeated, name in tied.items():
        stored = checkpoint.tensors.get(repeated)
        if stored is None:
            continue
        with _opened(stored.file) as opened:
            expected = slots[name].destination
            found = opened.get_tensor(repeated).to(expected)
        if found.shape != expected.shape or not torch.equal(found, expected):
            raise ModelError(
                f"{checkpoint.folder}: config.json ties {repeated} to {name} (tie_word_embeddings), "
                "but the checkpoint holds both and they differ"
            )


def eos_token_ids(folder: Path, config: HFConfig) -> list[int]:
    """As in transformers' generate: of generation_config.json, else of config.json.

    Ids outside the vocabulary, with which some checkpoints say "none", can never be sampled and are left out.
    """
    vocab_size = config.size("vocab_size")
    return [token_id for token_id in _named_eos_ids(folder, config) if 0 <= token_id < vocab_size]


def _named_eos_ids(folder: Path, config: HFConfig) -> list[int]:
    if (folder / "generation_config.json").exists():
        generation = HFConfig.read_json(folder / "generation_config.json")
        if ids := generation.token_ids("eos_token_id"):
            return ids
    return config.token_ids("eos_token_id")
